"""The learner against the conventional step: ``python -m benchmarks.learner`` (about six minutes on two quiet cores).

Measured are the GRPO learner step (reference forward, policy forward, backward) and the SFT step of this project, and
the same steps in plain transformers and peft (``benchmarks/conventional.py``), alternating in one run, on the same
random student, clips and completions; then the whole GRPO step with rollouts from a real vLLM server and weight pushes
(``benchmarks/whole_step.py``). Peak memory is that of processes of their own. Both sides get their batches collated;
what collating takes is listed beside. Writes ``learner.json``, ``learner.png`` and ``learner.md`` to
``benchmarks/results``.

On a GPU: ``python -m benchmarks.learner --device cuda --shape 7b --dtype bfloat16 --tokens 200 --backends``. Tokens per
second and model FLOPs utilisation are counted on the tokens that are needed (each prompt once). With ``--peers DIR``
the learners of ms-swift and TRL are measured too, in the environments that ``benchmarks/peers/install.sh DIR`` made.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import conventional, whole_step
from benchmarks.laps import Laps
from benchmarks.learner_world import World, build_model, build_world
from benchmarks.needed_flops import audio_flops, grpo_flops, peak_flops, sft_flops
from benchmarks.run_record import RESULTS, run_record, spread
from benchmarks.shapes import SHAPES, Shape, advantages_of, give_adapters_something_to_say
from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.student import LoRASettings, Student
from lightning_modules.objectives.losses import grpo_loss, sft_loss

BARS = {"grpo": 3.5, "grpo memory": 0.5, "sft": 1.25, "sft cached": 1.5, "sft four traces": 2.2}
TASKS = ("grpo", "sft", "step")
SYSTEMS = ("conventional", "ours")
BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)
THROUGHPUT = ("completion_tokens_per_s", "flops_utilisation")


class Conventional:
    """The steps in plain transformers and peft; with a learning rate of 0, so that all rounds compute the same."""

    def __init__(self, options: argparse.Namespace, shape: Shape, world: World) -> None:
        """Build model and adapters."""
        self.device = options.device
        self.processor = world.processor
        model = build_model(shape, world, options.device, options.torch_dtype)
        self.model = conventional.with_adapters(model, checkpointing=options.checkpointing)
        give_adapters_something_to_say(self.model)
        self.laps = Laps(self.model.base_model.model.model.language_model, options.device, options.clock)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=0.0
        )  # both sides stay where they are

    def prepare(self, batch: AudioQABatch) -> conventional.Rows:
        """Make the rows of a batch."""
        return conventional.rows_of(self.processor, batch).to(self.device)

    def grpo(self, rows: conventional.Rows, advantages: Tensor) -> Tensor:
        """One learner step; returns the policy's log-probabilities."""
        laps = self.laps
        laps.start()
        laps.phase = "reference"
        with torch.no_grad(), self.model.disable_adapter():
            reference = conventional.logprobs_of(self.model, rows)
        laps.mark("head")
        laps.phase = "policy"
        logprobs = conventional.logprobs_of(self.model, rows)
        loss = grpo_loss(logprobs, logprobs.detach(), reference, advantages, rows.mask).loss
        laps.mark("head")
        laps.phase = "backward"
        loss.backward()
        laps.mark("language model")
        self.optimizer.zero_grad()
        return logprobs.detach()

    def sft(self, rows: conventional.Rows) -> Tensor:
        """One step with the optimizer's; returns the loss."""
        laps = self.laps
        laps.start()
        laps.phase = "policy"
        loss = self.model(**rows.inputs, labels=rows.labels).loss
        laps.mark("head")
        laps.phase = "backward"
        loss.backward()
        laps.mark("language model")
        self.optimizer.step()
        self.optimizer.zero_grad()
        laps.mark("optimizer")
        return loss.detach()


class Ours:
    """The steps as SFTModule and GRPOModule take them."""

    def __init__(self, options: argparse.Namespace, shape: Shape, world: World) -> None:
        """Build the student."""
        self.device = options.device
        model = build_model(shape, world, options.device, options.torch_dtype)
        settings = LoRASettings(rank=8, alpha=16)
        self.student = Student.of_model(model, world.processor, settings, options.checkpointing)
        give_adapters_something_to_say(self.student)
        self.laps = Laps(self.student.family.language_model(self.student.base), options.device, options.clock)
        self.optimizer = torch.optim.AdamW(
            [p for _, p in self.student.trainable_parameters()], lr=0.0
        )  # both sides stay where they are

    def prepare(self, batch: AudioQABatch) -> AudioQABatch:
        """Move a batch."""
        return batch.to(self.device)

    def grpo(self, batch: AudioQABatch, advantages: Tensor) -> Tensor:
        """One learner step; returns the policy's log-probabilities."""
        laps, student = self.laps, self.student
        assert batch.completions is not None
        laps.start()
        laps.phase = "reference"
        audio = student.encode_audio(batch)
        with torch.no_grad():
            reference = student.completion_logprobs(batch, reference=True, audio=audio, entropy=False).logprobs
        laps.mark("head")
        laps.phase = "policy"
        scores = student.completion_logprobs(batch, audio=audio)
        mask = batch.completions.mask
        loss = grpo_loss(scores.logprobs, scores.logprobs.detach(), reference, advantages, mask).loss
        laps.mark("head")
        laps.phase = "backward"
        loss.backward()
        laps.mark("language model")
        self.optimizer.zero_grad()
        return scores.logprobs.detach()

    def sft(self, batch: AudioQABatch, audio: Tensor | None = None) -> Tensor:
        """One step with the optimizer's; returns the loss."""
        laps = self.laps
        assert batch.completions is not None
        laps.start()
        laps.phase = "policy"
        scores = self.student.completion_logprobs(batch, audio=audio)
        loss = sft_loss(scores.logprobs, batch.completions.mask)
        laps.mark("head")
        laps.phase = "backward"
        loss.backward()
        laps.mark("language model")
        self.optimizer.step()
        self.optimizer.zero_grad()
        laps.mark("optimizer")
        return loss.detach()


@dataclasses.dataclass
class Measured:
    """Steps of one system at one task.

    Attributes:
        seconds: Of each round.
        parts: Of each round.
        result: Of the last step: log-probabilities or loss.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    parts: list[dict[str, float]] = dataclasses.field(default_factory=list)
    result: Tensor | None = None

    def run(self, step: Callable[[], Tensor], laps: Laps, keep: bool) -> None:
        """Take a step; where the device's memory does not suffice, the system has no figures."""
        try:
            self.result = step()
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return
        if keep:
            self.seconds.append(laps.seconds)
            self.parts.append(dict(laps.parts))

    def summary(self) -> dict[str, Any]:
        """Return medians and spread."""
        if not self.seconds:
            return {"seconds": None, "parts": {}}
        parts = {name: spread([p.get(name, 0.0) for p in self.parts])["median"] for name in self.parts[0]}
        return {"seconds": spread(self.seconds), "parts": parts}


def tasks_of(options: argparse.Namespace, world: World) -> dict[str, AudioQABatch]:
    """Return the batches that are measured; eight traces in each batch of SFT."""
    return {
        "grpo": world.grpo_batch(options.questions, options.group, options.tokens, options.seconds),
        "sft": world.collator(world.sft_examples(8, 1, options.seconds)),
        "sft four traces": world.collator(world.sft_examples(2, 4, options.seconds)),
    }


def steps_of(task: str, system: Conventional | Ours, batch: AudioQABatch) -> dict[str, Callable[[], Tensor]]:
    """Return the steps of a task, by the name of what is measured."""
    given: Any = system.prepare(batch)
    if task == "grpo":
        advantages = advantages_of(batch).to(system.device)
        return {task: lambda: system.grpo(given, advantages)}
    steps: dict[str, Callable[[], Tensor]] = {task: lambda: system.sft(given)}
    if task == "sft" and isinstance(system, Ours):
        audio = system.student.encode_audio(given)
        steps["sft cached"] = lambda: system.sft(given, audio)
    return steps


def measure(options: argparse.Namespace, shape: Shape, world: World) -> dict[str, Any]:
    """Measure times; the first round warms up.

    On the CPU both systems alternate, because the machine may be busier at one time than at another. On a GPU they come
    one after the other, because both may not fit into its memory.
    """
    tasks = {name: batch for name, batch in tasks_of(options, world).items() if name.split()[0] in options.tasks}
    measured: dict[str, dict[str, Measured]] = {}
    together = [SYSTEMS] if options.device == "cpu" else [(name,) for name in SYSTEMS]
    for names in together:
        systems = {name: (Ours if name == "ours" else Conventional)(options, shape, world) for name in names}
        for task, batch in tasks.items():
            steps = {name: steps_of(task, system, batch) for name, system in systems.items()}
            for round_ in range(options.rounds + 1):
                for name, system in systems.items():
                    for case, step in steps[name].items():
                        one = measured.setdefault(case, {}).setdefault(name, Measured())
                        one.run(step, system.laps, round_ > 0)
        del systems
        if options.device == "cuda":
            torch.cuda.empty_cache()
    return {case: compared(case, measured, tasks, options, shape) for case in measured}


def compared(
    case: str,
    measured: dict[str, dict[str, Measured]],
    tasks: dict[str, AudioQABatch],
    options: argparse.Namespace,
    shape: Shape,
) -> dict[str, Any]:
    """Return what was measured of one case, beside the conventional step of the same task."""
    task = case.removesuffix(" cached")
    ours, other = measured[case]["ours"], measured[task]["conventional"]
    flops = (grpo_flops if task == "grpo" else sft_flops)(shape, tasks[task])
    flops -= audio_flops(shape, tasks[task]) if case != task else 0.0
    row: dict[str, Any] = {"bar": BARS.get(case), "ours": ours.summary()}
    if ours.seconds:
        row["ours"] |= throughput(tasks[task], flops, row["ours"], options)
    row["conventional"] = other.summary()
    if ours.seconds and other.seconds:
        assert ours.result is not None and other.result is not None
        row["ratio"] = spread([theirs / mine for theirs, mine in zip(other.seconds, ours.seconds, strict=True)], 2)
        row["largest_difference"] = float((ours.result.float() - other.result.float()).abs().max())
        row["conventional"] |= throughput(tasks[task], flops, row["conventional"], options)
        print(f"{case}: {row['ratio']} times the conventional step", flush=True)
    return row


def attention_backends(options: argparse.Namespace, shape: Shape, world: World) -> dict[str, Any]:
    """Return seconds of our GRPO step under each of PyTorch's attention kernels, or why one cannot be used."""
    system = Ours(options, shape, world)
    batch = tasks_of(options, world)["grpo"]
    step = steps_of("grpo", system, batch)["grpo"]
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        one = Measured()
        try:
            with sdpa_kernel([backend]):
                for round_ in range(options.rounds + 1):
                    one.run(step, system.laps, round_ > 0)
        except RuntimeError as error:
            found[backend.name] = str(error).splitlines()[0]
            continue
        found[backend.name] = one.summary()["seconds"] or "out of memory"
    return found


def throughput(
    batch: AudioQABatch, flops: float, summary: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Return completion tokens per second and the share of the device's speed that needed work makes up."""
    assert batch.completions is not None
    seconds = summary["seconds"]["median"]
    return {
        "completion_tokens_per_s": round(int(batch.completions.mask.sum()) / seconds, 1),
        "needed_tflops": round(flops / 1e12, 3),
        "flops_utilisation": round(flops / seconds / options.peak, 3),
    }


def collating(world: World, rounds: int = 8) -> dict[str, float]:
    """Return seconds for collating eight 10-second clips, in the loader's workers and in the conventional way."""
    examples = world.sft_examples(8)
    seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(rounds):
        begun = time.perf_counter()
        batch = world.collator(examples)
        seconds["ours"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        conventional.rows_of(world.processor, batch)
        seconds["conventional"].append(time.perf_counter() - begun)
    return {name: spread(values)["median"] for name, values in seconds.items()}


def memory_of(options: argparse.Namespace, system: str, task: str) -> dict[str, float]:
    """Return peak memory in GB of a process that takes two steps, and what it had before them."""
    command = [sys.executable, "-m", "benchmarks.learner", "--memory-of", system, "--tasks", task]
    for name in ("device", "shape", "dtype", "threads", "questions", "group", "tokens", "seconds"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--checkpointing"] if options.checkpointing else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "OutOfMemoryError" in done.stderr:
        return {"before": float("nan"), "peak": float("inf")}
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report_memory(options: argparse.Namespace, shape: Shape, world: World) -> None:
    """Take two steps and print the peak: resident memory, or the device's allocated memory."""
    system = (Ours if options.memory_of == "ours" else Conventional)(options, shape, world)
    batch = tasks_of(options, world)[options.tasks[0]]
    step = steps_of(options.tasks[0], system, batch)[options.tasks[0]]
    cuda = options.device == "cuda"

    def peak() -> float:
        if cuda:
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    before = peak()
    for _ in range(2):
        step()
    print(json.dumps({"before": round(before, 2), "peak": round(peak(), 2)}))


def table(report: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# The learner against the conventional step",
        "",
        f"`{report['command']}` at {report['commit']}; {report['machine']}, load {report['load_before']}; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items()),
        "",
    ]
    lines += _steps_table(report) if report["results"] else []
    if memory := report.get("memory"):
        lines += ["", "| peak memory, GB | conventional | ours | ratio | before the steps |", "|---|---|---|---|---|"]
        for task, row in memory.items():
            theirs, mine = row["conventional"], row["ours"]
            lines.append(
                f"| {task} | {theirs['peak']:.2f} | {mine['peak']:.2f} | {row['ratio']:.2f} | {mine['before']:.2f} |"
            )
    if kernels := report.get("attention"):
        lines += ["", "| attention kernel | our GRPO step, s |", "|---|---|"]
        for name, found in kernels.items():
            lines.append(f"| {name} | {found['median'] if isinstance(found, dict) else found} |")
    if whole := report.get("whole_step"):
        parts = list(whole_step.PARTS.values())
        lines += ["", f"| whole GRPO step, s | {' | '.join(parts)} | all | completion tokens |"]
        lines.append("|---|---|---|---|---|---|")
        for name in SYSTEMS:
            cells = [f"{whole[name]['parts'].get(part, 0):.2f}" for part in parts]
            cells += [_median(whole[name]), f"{whole[name]['tokens']:.0f}"]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if peers := report.get("peers"):
        lines += ["", "| peer | seconds | ours, s | ratio (lowest to highest) |", "|---|---|---|---|"]
        for row in peers:
            lines.append(f"| {row['name']} | {row['seconds']:.2f} | {row['ours']:.2f} | {_ratio(row['ratio'])} |")
        hears = report["trl"]["hears"]
        lines += ["", f"TRL's learner {'gets' if hears else 'does not get'} the audio: {json.dumps(report['trl'])}"]
    lines += ["", f"Collating 8 clips: {report['collating']['conventional']:.3f} s conventionally, "]
    lines[-1] += f"{report['collating']['ours']:.3f} s here."
    return "\n".join(lines) + "\n"


def _steps_table(report: dict[str, Any]) -> list[str]:
    lines = ["| step | conventional, s | ours, s | ratio (lowest to highest) | bar | largest difference |"]
    lines.append("|---|---|---|---|---|---|")
    for case, row in report["results"].items():
        ratio = row.get("ratio")
        cells = [_median(row[name]) for name in SYSTEMS]
        cells.append(_ratio(ratio) if ratio else "-")
        cells += [str(row["bar"] or "-"), f"{row['largest_difference']:.1e}" if ratio else "-"]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", "| step | completion tokens/s, conventional | ours | FLOPs utilisation, conventional | ours |"]
    lines.append("|---|---|---|---|---|")
    for case, row in report["results"].items():
        cells = [str(row[name].get(key, "-")) for key in THROUGHPUT for name in SYSTEMS]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", f"Utilisation is of {report['peak_tflops']} TFLOP/s, counted on the tokens that are needed."]
    lines += ["", "| part, s | conventional | ours |", "|---|---|---|"]
    for case, row in report["results"].items():
        theirs, ours = row["conventional"]["parts"], row["ours"]["parts"]
        parts = list(dict.fromkeys([*theirs, *ours]))
        lines += [f"| {case}: {part} | {theirs.get(part, 0):.3f} | {ours.get(part, 0):.3f} |" for part in parts]
    return lines


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def _median(summary: dict[str, Any]) -> str:
    return f"{summary['seconds']['median']:.2f}" if summary["seconds"] else "out of memory"


def plot(path: Path, report: dict[str, Any]) -> None:
    """Draw where the time goes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    parts = list(dict.fromkeys(p for r in report["results"].values() for s in SYSTEMS for p in r[s]["parts"]))
    bars = [(case, name) for case in report["results"] for name in SYSTEMS]
    left = [0.0] * len(bars)
    for part in parts:
        widths = [report["results"][case][name]["parts"].get(part, 0.0) for case, name in bars]
        axes.barh(range(len(bars)), widths, left=left, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [f"{case}, {name}" for case, name in bars])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Write what has been measured so far."""
    options.output.mkdir(parents=True, exist_ok=True)
    name = "learner" if options.device == "cpu" else f"learner_{options.device}_{options.shape}"
    (options.output / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.output / f"{name}.md").write_text(table(report), encoding="utf-8")
    if report["results"]:
        plot(options.output / f"{name}.png", report)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="bench", choices=SHAPES, help="size of the student (bench)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (2)")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=["wall", "cpu"],
        help="wall, or cpu with one thread on a machine that is shared",
    )
    parser.add_argument("--rounds", type=int, default=4, help="rounds after the first, which warms up (4)")
    parser.add_argument("--questions", type=int, default=2, help="prompts of the GRPO batch (2)")
    parser.add_argument("--group", type=int, default=8, help="completions of each (8)")
    parser.add_argument("--tokens", type=int, default=150, help="tokens of each completion (150)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clips (10)")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(TASKS),
        choices=TASKS,
        help="learner step of GRPO, step of SFT, whole GRPO step with a vLLM server (all three)",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--backends", action="store_true", help="measure each of PyTorch's attention kernels too")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument("--memory-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(args)
    options.torch_dtype = getattr(torch, options.dtype)
    torch.set_num_threads(options.threads)
    shape, world = SHAPES[options.shape], build_world(SHAPES[options.shape].vocabulary)
    if options.memory_of:
        report_memory(options, shape, world)
        return
    options.peak = peak_flops(options.device, options.torch_dtype)
    report = run_record(" ".join(["python -m benchmarks.learner", *(sys.argv[1:] if args is None else args)]))
    report |= {"shape": dataclasses.asdict(shape), "peak_tflops": round(options.peak / 1e12, 2), "bars": BARS}
    if options.device == "cuda":
        report["gpu"] = torch.cuda.get_device_name()
    if not options.no_memory:  # before this process takes memory itself
        report["memory"] = {}
        for task in ("grpo", "sft"):
            if task in options.tasks:
                row: dict[str, Any] = {name: memory_of(options, name, task) for name in SYSTEMS}
                row["ratio"] = round(row["ours"]["peak"] / row["conventional"]["peak"], 3)
                report["memory"][task] = row
                print(f"{task}: peak memory {row}", flush=True)
    report["results"] = measure(options, shape, world)
    report["collating"] = collating(world)
    write(report, options)
    if options.backends:
        report["attention"] = attention_backends(options, shape, world)
    if "step" in options.tasks:
        report["whole_step"] = whole_step.measure(options, shape, world)
        write(report, options)
    if options.peers:
        from benchmarks.compare_peers import compare, trl_hears

        report["peers"] = compare(options, shape, world, report.get("whole_step", {}).get("ours"))
        report["trl"] = trl_hears(options.peers)
    write(report, options)
    print(table(report))


if __name__ == "__main__":
    main()
