import numpy as np
import pytest

from corpus.clips.quality import heard, level_db, moves
from corpus.clips.settings import ClipSettings

RATE = 16_000
SINE = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)


def test_level() -> None:
    assert level_db(np.full(100, 0.1, np.float32)) == pytest.approx(-20, abs=1e-3)
    assert level_db(np.zeros(100, np.float32)) == -200
    assert level_db(SINE) == pytest.approx(10 * np.log10(0.5), abs=1e-3)  # the mean of a squared sine is a half


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (np.zeros(RATE, np.float32), "silence"),
        (0.0005 * SINE, "silence"),  # -69 dB
        (0.003 * SINE, "too quiet"),  # -53.5 dB
        (0.1 * SINE, None),
        (np.clip(3 * SINE, -1, 1), "clipped"),
        (np.where(np.arange(RATE) < 1600, 0.005, 0).astype(np.float32), "too quiet"),  # -46 dB for a tenth, -56 in all
    ],
)
def test_what_can_be_heard(sound: np.ndarray, reason: str | None) -> None:
    found = heard(sound, ClipSettings())
    assert (found[0] if found else None) == reason


def test_motion_is_a_cell_that_changes() -> None:
    still = np.full((16, 16), 100.0)
    moved = still.copy()
    moved[3, 4] += 4
    assert moves([still, still, moved], 4.0) and not moves([still, still, moved], 4.1)
    assert not moves([still], 1.0) and not moves([], 1.0)

    def pictures():  # type: ignore[no-untyped-def]
        yield from (still, moved)
        raise AssertionError("no more was to be looked at")

    assert moves(pictures(), 4.0)
