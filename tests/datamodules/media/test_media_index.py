import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.avqa import AVQADataModule
from datamodules.media.media_files import MediaError, MomentaryMediaError
from datamodules.media.media_index import MediaIndex
from tests.support.dataset_files import avqa_row, tone, write_mp4


class Decoder:
    """Counts what it decodes."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.decoded = 0

    def __call__(self, path: Path) -> np.ndarray:
        self.decoded += 1
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return np.zeros(8_000, np.float32)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
    return tmp_path / "a.wav"


def check(tmp_path: Path, clip: Path, decode: Decoder, max_seconds: float | None = 30.0) -> str | None:
    return MediaIndex(tmp_path / "index.jsonl", decode, 1, max_seconds).check([clip])[clip]


def test_a_broken_file_is_remembered(tmp_path: Path, clip: Path) -> None:
    decode = Decoder(MediaError("a.wav: broken"))
    assert [check(tmp_path, clip, decode) for _ in range(2)] == ["a.wav: broken"] * 2
    assert decode.decoded == 1


def test_what_is_the_machines_fault_is_tried_again(tmp_path: Path, clip: Path) -> None:
    decode = Decoder(MomentaryMediaError("a.wav: there is not enough memory"))
    assert check(tmp_path, clip, decode) == "a.wav: there is not enough memory"
    assert check(tmp_path, clip, decode) is None
    assert decode.decoded == 2


def test_another_limit_and_another_decoder_decode_again(tmp_path: Path, clip: Path) -> None:
    decode = Decoder()
    for max_seconds in (30.0, 60.0, 60.0, None):
        check(tmp_path, clip, decode, max_seconds)
    assert decode.decoded == 3
    entries = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    old = [{key: value for key, value in entry.items() if key != "version"} for entry in entries]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in old))
    check(tmp_path, clip, decode)
    assert decode.decoded == 4


def test_clips_that_the_student_hears_in_part_are_said_once(
    write_avqa: Callable[..., Path], processor_dir: str, recwarn: pytest.WarningsRecorder
) -> None:
    root = write_avqa(val=[avqa_row(0), avqa_row(1)])  # the processor hears two seconds
    (root / "videos" / "clip1.mp4").unlink()
    write_mp4(root / "videos" / "clip1.mp4", tone(3.0))

    def said() -> list[str]:
        return [str(warning.message) for warning in recwarn if "the student hears" in str(warning.message)]

    for max_seconds in (2.0, 60.0):
        data = AVQADataModule(str(root), processor=processor_dir, max_seconds=max_seconds, num_workers=0)
        data.setup("validate")
        for _ in range(2):
            batch = next(iter(data.val_dataloader()))
            assert [len(waveform) for waveform in batch.waveforms][1] == 32_000
    assert said() == [
        "the student hears the first 2 s of a clip: 1 of 2 clips are longer and are cut there, "
        "whatever data.max_seconds allows (60 s)"
    ]
