"""A small AVQA-like dataset and a tiny real Qwen2-Audio processor."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

from tests.support.dataset_files import tone, write_mp4

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]


@pytest.fixture(scope="session")
def processor() -> Qwen2AudioProcessor:
    """A Qwen2-Audio processor that hears 2 s (200 mel frames, 50 audio tokens), with a small byte-level tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What can be heard in the audio? (A) a dog (B) a cat <think></think>"] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=2), fast)


@pytest.fixture(scope="session")
def processor_dir(processor: Qwen2AudioProcessor, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("processor")
    processor.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips: clip0 to clip15 are mp4, clip16 to clip19 wav, between 0.5 and 1.5 s."""
    directory = tmp_path_factory.mktemp("clips")
    for number in range(20):
        samples = tone(0.5 + number % 5 * 0.25, 200 + 50 * number)
        if number < 16:
            write_mp4(directory / f"clip{number}.mp4", samples)
        else:
            soundfile.write(directory / f"clip{number}.wav", samples, 16_000)
    return directory


@pytest.fixture
def write_avqa(tmp_path: Path, clips: Path) -> Callable[..., Path]:
    """Write an AVQA folder whose videos are the shared clips."""

    def write(train: Sequence[Any] | str | None = None, val: Sequence[Any] | str | None = None) -> Path:
        root = tmp_path / "avqa"
        (root / "videos").mkdir(parents=True, exist_ok=True)
        for clip in clips.iterdir():
            target = root / "videos" / clip.name
            if not target.exists():
                target.hardlink_to(clip)
        for split, rows in (("train", train), ("val", val)):
            if isinstance(rows, str):
                (root / f"{split}_qa.json").write_text(rows)
            elif rows is not None:
                (root / f"{split}_qa.json").write_text(json.dumps(rows))
        return root

    return write
