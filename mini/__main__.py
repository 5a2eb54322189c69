"""The whole paper on the embedded world: ``python -m mini`` (``make mini``).

Synthesises the corpus, builds the small student, lets the embedded teacher watch and the embedded checker hear, runs
SFT on all traces, on the verified ones and on the verified ones of unanimous questions, runs GRPO from the last (with
rollouts from a real vLLM server and weight updates into it), tests every student on the three benchmarks' formats and
the last one also with other audio, prints the table, writes the report and stops the servers. Each stage is
``train.py`` in a process of its own.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from callbacks.vllm_server import VLLMServer
from datamodules.avqa import AVQADataModule
from datamodules.mmau import MMAUDataModule
from datamodules.music_avqa import MusicAVQADataModule
from datamodules.prompts import PROMPTS
from datamodules.records import Trace, UserError, read_jsonl
from mini.corpus import CorpusConfig, build_corpus
from mini.endpoints import MiniEndpoints
from mini.sounds import INSTRUMENTS
from mini.student import StudentConfig, build_student

ROOT = Path(__file__).parents[1]
BENCHMARKS = {"avqa": "AVQA-mini val", "mmau": "MMAU-mini", "music_avqa": "MUSIC-AVQA-mini"}
ABLATIONS = {"sft": "sft_cot", "agfv": "agfv_sft", "tts": "tts_agfv_sft"}
"""Folder of each SFT run, and the overlay below ``configs/ablation`` that chooses its traces."""
STUDENTS = {
    "untrained": "untrained",
    "sft": "SFT on all traces",
    "agfv": "AGFV + SFT",
    "tts": "TTS + AGFV + SFT",
    "grpo": "TTS + AGFV + SFT + GRPO",
}
PROBES = ("silence", "swap", "noise")
"""What the last student's audio is replaced by: a student that hears must lose what it has learnt to hear."""
console = Console(soft_wrap=True)


def main(args: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run everything and return the accuracies: ``{student: {benchmark: accuracy}}``."""
    parser = argparse.ArgumentParser(prog="python -m mini", description=__doc__)
    parser.add_argument("--output", default="runs/mini", help="folder of everything that is written (runs/mini)")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus, student and training (0)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run instead of training from the start"
    )
    options = parser.parse_args(args)
    output = Path(options.output).resolve()
    os.environ["SIGHTSOUND_MINI"] = str(output)
    resume = ("--ckpt_path", "last") if options.resume else ()
    if not options.resume:
        for stage in ("teacher", "verify", *ABLATIONS, "grpo"):
            shutil.rmtree(output / stage, ignore_errors=True)
    started = time.monotonic()
    with timed("corpus and student"):
        corpus = build_world(output, options.seed)
    with timed("teacher and checker"):
        write_traces(output)
    server = VLLMServer(
        output / "student", max_num_seqs=256, max_model_len=512, log_file=output / "vllm" / "server.log", report=say
    )
    try:
        server.start(wait=False)  # it gets ready while SFT runs
        os.environ["SIGHTSOUND_SERVER"] = server.url
        for folder, ablation in ABLATIONS.items():
            with timed(STUDENTS[folder]):
                overlay = ("--config", f"ablation/{ablation}.yaml", f"--trainer.default_root_dir={output / folder}")
                train("sft", options.seed, *overlay, *resume)
        with timed("GRPO"):
            server.wait()
            train("grpo", options.seed, *resume)
        with timed("benchmarks"):
            accuracies = {student: benchmark(student, output) for student in STUDENTS}
        with timed("can it hear?"):
            probed = {probe: test("grpo", "avqa", output, probe) for probe in PROBES}
    finally:
        server.stop()
    results = json.dumps(accuracies | {"grpo on probed audio": probed}, indent=2)
    (output / "results.json").write_text(results + "\n", encoding="utf-8")
    show(accuracies, chance(corpus), probed, rewards(output / "grpo"))
    write_report(output, corpus)
    say(f"everything took {(time.monotonic() - started) / 60:.1f} minutes; results are in {output}")
    return accuracies


def say(line: str) -> None:
    """Print a line of progress at once."""
    console.print(line, highlight=False, markup=False)


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Announce a part and say how long it took."""
    console.rule(title)
    started = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - started:.0f} s")


def build_world(output: Path, seed: int, config: CorpusConfig | None = None) -> Path:
    """Write corpus and small student below ``output``, or reuse what is there, and return the corpus."""
    corpus = build_corpus(output / "corpus", config or CorpusConfig(seed=seed), progress=say)
    build_student(output / "student", student_texts(corpus), StudentConfig(seed=seed), progress=say)
    return corpus


def student_texts(corpus: Path) -> list[str]:
    """Return what the student's tokenizer is trained on: the training questions as they are asked, and the traces."""
    data = AVQADataModule(str(corpus / "avqa"), validate_media=False)
    asked = [PROMPTS["think-short"].render(question) for question in data.questions("train")]
    traces = read_jsonl(corpus / "traces.jsonl", Trace)
    said = [f"<think>{trace.reasoning}</think><answer>{trace.answer}</answer>" for trace in traces]
    return [*asked, *said, *["system\nYou are a helpful assistant.\nuser\nAudio 1: \nassistant\n"] * 50]


def write_traces(output: Path) -> None:
    """Let the embedded teacher and the embedded checker work below ``output``; what is there already is kept."""
    with MiniEndpoints() as endpoints:
        os.environ["SIGHTSOUND_TEACHER"] = os.environ["SIGHTSOUND_CHECKER"] = endpoints.url
        for stage in ("teacher", "verify"):
            run("predict", stage)


def train(stage: str, seed: int, *extra: str) -> None:
    """Run ``train.py fit`` of a stage in a process of its own.

    Args:
        stage: ``sft`` or ``grpo``.
        seed: Seed of the run and of the order of the data.
        *extra: Further arguments.
    """
    run("fit", stage, *extra, f"--seed_everything={seed}", f"--data.init_args.seed={seed}")


def run(subcommand: str, stage: str, *extra: str) -> None:
    """Run ``train.py`` with a stage's configuration and its overlay for the embedded world.

    Args:
        subcommand: ``fit`` or ``predict``.
        stage: Name of both configurations.
        *extra: Further arguments.

    Raises:
        UserError: It failed; it has said why.
    """
    command = [sys.executable, "train.py", subcommand, "--config", f"{stage}.yaml", "--config", f"mini/{stage}.yaml"]
    command += extra
    say("$ " + " ".join(["python", *command[1:]]))
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        raise UserError(f"{stage} ended with status {status}, see above; `python -m mini --resume` goes on from there")


def benchmark(student: str, output: Path) -> dict[str, float]:
    """Test a student on the three benchmarks and return its accuracies."""
    return {name: test(student, name, output) for name in BENCHMARKS}


def test(student: str, name: str, output: Path, probe: str = "") -> float:
    """Test a student on one benchmark, with its audio replaced where a probe is named; return the accuracy."""
    from train import main as train_main

    weights = output / "student" if student == "untrained" else output / student / "best"
    root = output / "benchmark" / student / (f"{name}-{probe}" if probe else name)
    (root / "predictions.jsonl").unlink(missing_ok=True)
    say(f"{STUDENTS[student]} on {BENCHMARKS[name]}" + (f", audio: {probe}" if probe else ""))
    cli = train_main(
        [
            *("test", "--config", f"benchmark/{name}.yaml", "--config", f"mini/{name}.yaml"),
            f"--model.init_args.weights={weights}",
            f"--trainer.default_root_dir={root}",
            *([f"--data.init_args.probe={probe}"] if probe else []),
        ]
    )
    return float(cli.trainer.callback_metrics["test/accuracy"])


def write_report(output: Path, corpus: Path) -> None:
    """Write tables, plots and examples of all students below ``output``."""
    from scores.__main__ import main as scores_main

    runs = [f"{title}={output / 'benchmark' / student}" for student, title in STUDENTS.items()]
    metrics = [f"--metrics={STUDENTS['grpo']}={sittings(output / 'grpo')[-1] / 'metrics.csv'}"]
    where = ["--data", str(corpus), "--output", str(output / "report"), "--title", "The embedded world"]
    scores_main(["report", *runs, *metrics, *where])


def chance(corpus: Path) -> dict[str, float]:
    """Return the accuracy of guessing on each benchmark."""
    modules = {
        "avqa": AVQADataModule(str(corpus / "avqa"), validate_media=False),
        "mmau": MMAUDataModule(str(corpus / "mmau"), validate_media=False),
        "music_avqa": MusicAVQADataModule(
            str(corpus / "music_avqa"), instruments=list(INSTRUMENTS), validate_media=False
        ),
    }
    return {name: fmean(1 / len(q.options) for q in data.questions("test")) for name, data in modules.items()}


def sittings(run: Path) -> list[Path]:
    """Return the folders in which the sittings of a run left their metrics, in order."""
    return sorted((run / "metrics").glob("version_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))


def rewards(run: Path, steps: int = 5) -> tuple[float, float]:
    """Return the mean reward of the first and of the last steps of a GRPO run, in however many sittings."""
    found: dict[int, float] = {}
    for folder in sittings(run):  # a sitting repeats the steps since the checkpoint that it began from
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as rows:
            found |= {int(r["step"]): float(r["train/reward"]) for r in csv.DictReader(rows) if r.get("train/reward")}
    in_order = [found[step] for step in sorted(found)]
    return fmean(in_order[:steps]), fmean(in_order[-steps:])


def show(
    accuracies: dict[str, dict[str, float]],
    guessing: dict[str, float],
    probed: dict[str, float],
    reward: tuple[float, float],
) -> None:
    """Print the table."""
    table = Table(title="Accuracy in % on the embedded world")
    table.add_column("student")
    for title in BENCHMARKS.values():
        table.add_column(title, justify="right")
    table.add_row("guessing", *(f"{100 * guessing[name]:.1f}" for name in BENCHMARKS))
    for student, row in accuracies.items():
        table.add_row(STUDENTS[student], *(f"{100 * row[name]:.1f}" for name in BENCHMARKS))
    console.print(table)
    replaced = ", ".join(f"{100 * accuracy:.1f} ({probe})" for probe, accuracy in probed.items())
    say(
        f"can it hear? {STUDENTS['grpo']} on {BENCHMARKS['avqa']}: {100 * accuracies['grpo']['avqa']:.1f}, "
        f"with its audio replaced {replaced}"
    )
    say(f"mean reward in GRPO (0 to 2): {reward[0]:.2f} in the first steps, {reward[1]:.2f} in the last")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and stage are stopped too
    try:
        main()
    except UserError as error:
        sys.exit(f"mini: {error}")
    except KeyboardInterrupt:
        sys.exit("mini: interrupted; `python -m mini --resume` goes on from there")
