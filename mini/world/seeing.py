"""Recognising the sources of a scene from the pixels of a few frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mini.world.scenes import COLOURS, FRAME_SIZE, SHAPES, SLOTS, shape_mask
from mini.world.sounds import SOUNDS

GLYPH = 20
QUARTER = FRAME_SIZE // 2
_INSET = (QUARTER - GLYPH) // 2
_ACTIVE = 175.0
"""Brightness of the border around a source that acts; without one it is that of the background."""


@dataclass(frozen=True)
class Sight:
    """A source that is seen.

    Attributes:
        slot: The third of the clip in which it acts.
        cell: The quarter of the frame where it is.
        distances: How far its picture is from that of each source, in mean levels of a pixel, by ``SOUNDS``.
    """

    slot: int
    cell: int
    distances: tuple[float, ...]

    def name(self, temperature: float, rng: np.random.Generator) -> str:
        """Return which source it is taken for: the closest one, or at a temperature one of those nearly as close.

        Args:
            temperature: At 1, a source that is 10 levels further is taken 2.7 times less often.
            rng: Draws.
        """
        distances = np.array(self.distances)
        if temperature <= 0:
            return SOUNDS[int(distances.argmin())]
        weights = np.exp(-(distances - distances.min()) / (10 * temperature))
        return SOUNDS[int(rng.choice(len(SOUNDS), p=weights / weights.sum()))]


def look(frames: Sequence[np.ndarray]) -> list[Sight]:
    """Return the sources that act in a clip, in the order in which they do.

    Args:
        frames: Frames in order, spread evenly over the clip, each ``[height, width, 3]``, uint8.
    """
    pictures = np.stack([_resized(frame) for frame in frames]).astype(np.float32)
    number = len(pictures)
    seen = []
    for cell in range(4):
        top, left = (cell // 2) * QUARTER, (cell % 2) * QUARTER
        quarter = pictures[:, top : top + QUARTER, left : left + QUARTER]
        active = np.array([_border(picture) > _ACTIVE for picture in quarter])
        if not active.any():
            continue
        middles = (np.flatnonzero(active) + 0.5) / number
        slot = min(int(np.median(middles) * SLOTS), SLOTS - 1)
        glyph = quarter[active][:, _INSET : _INSET + GLYPH, _INSET : _INSET + GLYPH].mean(0)
        ground = float(np.median(quarter[~active][:, 1:4, 1:-1])) if (~active).any() else 60.0
        seen.append(Sight(slot, cell, tuple(_distance(glyph, sound, ground) for sound in SOUNDS)))
    return sorted(seen, key=lambda sight: (sight.slot, sight.cell))


def _border(quarter: np.ndarray) -> float:
    """Return the darkest of the border's four sides, so that a bright picture is not taken for a border."""
    sides = (quarter[1:4, 1:-1], quarter[-4:-1, 1:-1], quarter[1:-1, 1:4], quarter[1:-1, -4:-1])
    return float(min(side.mean() for side in sides))


def _distance(glyph: np.ndarray, sound: str, ground: float) -> float:
    picture = np.full((GLYPH, GLYPH, 3), ground, np.float32)
    picture[shape_mask(SHAPES[sound], GLYPH)] = COLOURS[sound]
    return float(np.abs(glyph - picture).mean())


def _resized(frame: np.ndarray) -> np.ndarray:
    if frame.shape[:2] == (FRAME_SIZE, FRAME_SIZE):
        return frame
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    size = (FRAME_SIZE, FRAME_SIZE)
    small = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    return np.asarray(small[0].permute(1, 2, 0).numpy())
