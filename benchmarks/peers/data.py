"""Checkpoint, clips and questions in the way that the peers' older transformers read too."""

import json
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.measuring.learner_world import PROMPT, World, build_model
from benchmarks.measuring.shapes import Shape
from lightning_modules.models.student import Student


def write_data(folder: Path, shape: Shape, world: World, questions: int = 64) -> None:
    """Write them, unless they are there.

    Args:
        folder: Where to.
        shape: The student's.
        world: Where the questions come from.
        questions: How many.
    """
    if (folder / "whole.jsonl").exists():
        return
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    Student.of_model(build_model(shape, world), world.processor).save_pretrained(folder / "model")
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
