"""The learner against those of ms-swift and TRL in their own environments, with the same checkpoint and sizes."""

import argparse
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

import soundfile

from benchmarks.learner import Measured, Ours, steps_of, tasks_of
from benchmarks.learner_world import PROMPT, Shape, World, build_model
from lightning_modules.student import Student

HERE = Path(__file__).parent
ROUNDS = 2


def compare(options: argparse.Namespace, shape: Shape, world: World) -> list[dict[str, Any]]:
    """Run a peer and then our own steps, twice for each task; returns the rows of the table."""
    folder: Path = options.peers
    write_data(folder / "data", shape, world)
    ours = Ours(options, shape, world)
    rows = []
    for task in ("grpo", "sft"):
        batch = tasks_of(options, world)[task]
        step = steps_of(task, ours, batch)[task]
        mine, theirs = Measured(), []
        for _ in range(ROUNDS):
            theirs += swift_steps(folder, task, options)
            for number in range(options.rounds + 1):
                mine.run(step, ours.laps, number > 0)
        seconds, own = median(theirs), median(mine.seconds)
        rows.append({"name": f"ms-swift, {task}", "seconds": seconds, "ours": own, "ratio": seconds / own})
        print(rows[-1], flush=True)
    return rows


def swift_steps(folder: Path, task: str, options: argparse.Namespace) -> list[float]:
    """Return the seconds of ms-swift's steps."""
    batch = options.questions * options.group if task == "grpo" else 8
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
    if (folder / "grpo.jsonl").exists():
        return
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    Student.of_model(build_model(shape, world), world.processor).save_hub(folder / "model")
    _make_readable_for_older_transformers(folder / "model", world, shape)
    rows: dict[str, list[dict[str, Any]]] = {"grpo": [], "sft": []}
    for number, example in enumerate(world.sft_examples(questions)):
        clip = folder / "wav" / f"{number}.wav"
        soundfile.write(clip, example.waveform, 16_000, subtype="PCM_16")
        text = PROMPT.render(example.question)
        asked = {"role": "user", "content": "<audio>" + text}
        row = {"messages": [asked], "audios": [str(clip.resolve())], "question": text, "solution": example.label}
        rows["grpo"].append(row)
        answer = {"role": "assistant", "content": example.targets[0]}
        rows["sft"].append({"messages": [asked, answer], "audios": row["audios"]})
    for name in ("sft", "grpo"):
        lines = "".join(json.dumps(row) + "\n" for row in rows[name])
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
