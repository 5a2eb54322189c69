"""The learner against those of ms-swift and TRL in their own environments, with the same checkpoint and sizes."""

import argparse
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

import soundfile

from benchmarks.learner import Measured, Ours, steps_of, tasks_of
from benchmarks.learner_world import PROMPT, World, build_model
from benchmarks.run_record import spread
from benchmarks.shapes import Shape
from lightning_modules.models.student import Student

HERE = Path(__file__).parent / "peers"
ROUNDS = 2


def compare(options: argparse.Namespace, shape: Shape, world: World, whole: Any = None) -> list[dict[str, Any]]:
    """Run a peer and then our own steps, twice for each task.

    Args:
        options: Sizes and rounds.
        shape: The student's.
        world: Where its questions come from.
        whole: What was measured of our whole GRPO step, if it was.

    Returns:
        The rows of the table. In the peer's batches each of eight traces is a row of its own, so that the same step is
        set against ours with cached audio and with four traces of each question.
    """
    folder: Path = options.peers
    write_data(folder / "data", shape, world)
    ours = Ours(options, shape, world)
    tasks = tasks_of(options, world)
    rows = []
    for task, cases in (("grpo", ["grpo"]), ("sft", ["sft", "sft four traces"])):
        steps = {name: step for case in cases for name, step in steps_of(case, ours, tasks[case]).items()}
        theirs: list[float] = []
        mine = {name: Measured() for name in steps}
        ratios: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS):
            measured = swift_steps(folder, task, options)
            theirs += measured
            for name, step in steps.items():
                before = len(mine[name].seconds)
                for number in range(options.rounds + 1):
                    mine[name].run(step, ours.laps, number > 0)
                ratios[name].append(median(measured) / median(mine[name].seconds[before:]))
        for name in steps:
            own = median(mine[name].seconds)
            rows.append(row_of(f"ms-swift, {name}", median(theirs), own, ratios[name]))
    if whole:
        measured = swift_steps(folder, "whole", options)
        own = whole["seconds"]["median"]
        rows.append(row_of("ms-swift, whole GRPO step", median(measured), own, [one / own for one in measured]))
    return rows


def row_of(name: str, seconds: float, own: float, ratios: list[float]) -> dict[str, Any]:
    """Return and print a row of the table."""
    row = {"name": name, "seconds": seconds, "ours": own, "ratio": spread(ratios, 2)}
    print(row, flush=True)
    return row


def swift_steps(folder: Path, task: str, options: argparse.Namespace) -> list[float]:
    """Return the seconds of ms-swift's steps: those of SFT, of GRPO without its sampling, or the whole of GRPO."""
    batch = 8 if task == "sft" else options.questions * options.group
    settings = {"data": str(folder / "data"), "steps": options.rounds, "threads": options.threads}
    settings |= {"group": options.group, "tokens": options.tokens, "batch": batch}
    last = run(folder / "swift", HERE / "swift_steps.py", task, json.dumps(settings))
    return list(last)


def trl_hears(folder: Path) -> dict[str, Any]:
    """Return whether TRL's learner gets the audio."""
    return dict(run(folder / "trl", HERE / "trl_hears.py", str(folder / "data")))


def run(environment: Path, *command: str | Path) -> Any:
    """Run a script in a peer's environment and return the JSON on its last line."""
    python = str(environment / "bin" / "python")
    done = subprocess.run([python, *map(str, command)], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed in {environment}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def write_data(folder: Path, shape: Shape, world: World, questions: int = 64) -> None:
    """Write checkpoint, clips and questions in the way that older transformers read too."""
    if (folder / "whole.jsonl").exists():
        return
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    Student.of_model(build_model(shape, world), world.processor).save_hub(folder / "model")
    _make_readable_for_older_transformers(folder / "model", world, shape)
    rows: dict[str, list[dict[str, Any]]] = {"sft": [], "grpo": [], "whole": []}
    prompt_length = 0
    for number, example in enumerate(world.sft_examples(questions)):
        clip = folder / "wav" / f"{number}.wav"
        soundfile.write(clip, example.waveform, 16_000, subtype="PCM_16")
        text = PROMPT.render(example.question)
        asked = {"role": "user", "content": "<audio>" + text}
        row = {"messages": [asked], "audios": [str(clip.resolve())], "question": text, "solution": example.label}
        rows["grpo"].append(row)
        answer = {"role": "assistant", "content": example.targets[0]}
        rows["sft"].append({"messages": [asked, answer], "audios": row["audios"]})
        # with transformers of its time, ms-swift's sampling fails where prompts of a batch differ in length
        length = len(world.processor.tokenizer(text)["input_ids"])
        prompt_length = prompt_length or length
        if length == prompt_length:
            rows["whole"].append(row)
    for name, those in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in those)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _make_readable_for_older_transformers(model: Path, world: World, shape: Shape) -> None:
    world.processor.feature_extractor.save_pretrained(model)
    edits: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Qwen2AudioProcessor",
            "chat_template": world.processor.chat_template,
            "additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"],
            "extra_special_tokens": None,
            "backend": None,
            "is_local": None,
        },
        "preprocessor_config.json": {
            "processor_class": "Qwen2AudioProcessor",
            "feature_extractor_type": "WhisperFeatureExtractor",
        },
        "config.json": {
            "architectures": ["Qwen2AudioForConditionalGeneration"],
            "model_type": "qwen2_audio",
            "audio_token_index": world.processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
            "torch_dtype": "float32",
            "dtype": "float32",
            "ignore_index": -100,
        },
    }
    for name, changes in edits.items():
        file = model / name
        fields = json.loads(file.read_text(encoding="utf-8")) | changes
        if name == "config.json":
            fields["text_config"]["rope_theta"] = 10_000.0
        kept = {key: value for key, value in fields.items() if value is not None or key not in changes}
        file.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    (model / "processor_config.json").unlink(missing_ok=True)  # its nested form is unknown to them
