import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from datamodules.media.audio import load_waveform
from datamodules.media.video import FrameSampling, sample_frames
from tests.support.dataset_files import tone, write_mp4


def _sound(path: Path) -> None:
    assert len(load_waveform(path)) >= 16_000 * 5


def _frames(path: Path) -> None:
    assert len(sample_frames(path, FrameSampling(count=4)).pixels) == 4


@pytest.mark.parametrize("decode", [_sound, _frames])
@pytest.mark.integration
def test_memory_does_not_grow_with_the_clips(tmp_path: Path, decode: Callable[[Path], None]) -> None:
    # a decoder that keeps what it has decoded, as one did, grows by 60 times 5 s of 48,000 floats: 58 MB
    path = tmp_path / "clip.mp4"
    write_mp4(path, tone(5.0, 440, 48_000), 48_000, channels=2)
    for _ in range(10):
        decode(path)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(60):
        decode(path)
    gc.collect()
    assert (psutil.Process().memory_info().rss - before) / 1e6 < 20
