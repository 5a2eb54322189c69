"""Scenes: which sources are heard, which are seen, and when.

What is seen and what is heard may differ: a visible source can be silent (it moves without a sound) and an audible one
can be off screen. A teacher that only sees is wrong about those scenes.
"""

from dataclasses import dataclass

import numpy as np

from mini.world.sounds import SAMPLE_RATE, SOUNDS, synthesise

SAMPLES = 29_600  # 1.85 s: with the padding of the AAC codec a decoded clip stays below 2 s
SLOTS = 3
FRAME_SIZE = 64
FRAME_RATE = 8
FRAMES = 15

# Distinct after 4:2:0 chroma subsampling and compression: a colour and a shape for each source
COLOURS: dict[str, tuple[int, int, int]] = {
    "bell": (250, 220, 40),
    "siren": (230, 30, 30),
    "engine": (120, 120, 120),
    "rain": (40, 80, 240),
    "bird": (40, 200, 60),
    "beep": (240, 60, 220),
    "whistle": (40, 220, 230),
    "dog": (140, 80, 30),
    "drum": (250, 140, 20),
    "flute": (250, 250, 250),
    "violin": (130, 30, 160),
    "piano": (10, 90, 60),
}
SHAPES = dict(
    zip(
        SOUNDS,
        (
            "disc",
            "square",
            "bar",
            "stripes",
            "triangle",
            "ring",
            "cross",
            "disc",
            "square",
            "bar",
            "triangle",
            "stripes",
        ),
        strict=True,
    )
)


@dataclass(frozen=True)
class Source:
    """One source of a scene.

    Attributes:
        sound: Which source, one of ``SOUNDS``.
        slot: The third of the clip in which it acts, 0 to 2.
        audible: It is heard.
        visible: It is seen.
        cell: The quarter of the frame where it is drawn, 0 to 3.
    """

    sound: str
    slot: int
    audible: bool
    visible: bool
    cell: int


@dataclass(frozen=True)
class Scene:
    """What happens in one clip.

    Attributes:
        name: Name of the clip, without suffix.
        sources: All sources, audible or visible or both.
        noise: Level of the background noise relative to the sounds.
        seed: Seed of everything random in the media.
    """

    name: str
    sources: tuple[Source, ...]
    noise: float
    seed: int

    @property
    def heard(self) -> tuple[str, ...]:
        """The audible sources in the order in which they sound: what a checker that hears knows."""
        return tuple(s.sound for s in sorted(self.sources, key=lambda s: s.slot) if s.audible)

    @property
    def seen(self) -> tuple[str, ...]:
        """The visible sources in the order in which they act: what a teacher that sees believes."""
        return tuple(s.sound for s in sorted(self.sources, key=lambda s: (s.slot, s.audible)) if s.visible)


def draw_scene(
    name: str,
    seed: int,
    sounds: tuple[str, ...] = SOUNDS,
    silent: float = 0.25,
    hidden: float = 0.15,
    noise: float = 0.1,
) -> Scene:
    """Draw a scene.

    Args:
        name: Name of the clip.
        seed: Seed of this scene.
        sounds: The sources to choose from.
        silent: Probability that there is a visible source that makes no sound.
        hidden: Probability that an audible source is off screen.
        noise: Largest level of the background noise.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.choice((1, 2, 3), p=(0.4, 0.42, 0.18)))
    chosen = [sounds[i] for i in rng.permutation(len(sounds))[: count + 1]]
    slots = sorted(rng.permutation(SLOTS)[:count].tolist())
    cells = rng.permutation(4).tolist()
    sources = [
        Source(sound, slot, True, bool(rng.random() >= hidden), cell)
        for sound, slot, cell in zip(chosen[:count], slots, cells, strict=False)
    ]
    if rng.random() < silent and len(chosen) > count:
        free = sorted(set(range(SLOTS)) - set(slots)) or list(range(SLOTS))
        sources.append(Source(chosen[count], free[int(rng.integers(len(free)))], False, True, cells[count]))
    return Scene(name, tuple(sources), float(rng.uniform(0.2, 1.0) * noise), seed)


def render_audio(scene: Scene) -> np.ndarray:
    """Return the clip's sound as mono float32 at 16 kHz, between -1 and 1."""
    rng = np.random.default_rng((scene.seed, 1))
    mix = rng.standard_normal(SAMPLES) * scene.noise * 0.2
    slot_length = SAMPLES // SLOTS
    for source in scene.sources:
        if not source.audible:
            continue
        length = int(rng.uniform(0.75, 0.92) * slot_length)
        start = source.slot * slot_length + int(rng.integers(slot_length - length))
        mix[start : start + length] += rng.uniform(0.35, 0.8) * synthesise(source.sound, length, rng)
    return np.clip(mix, -1, 1).astype(np.float32)


def shape_mask(shape: str, size: int) -> np.ndarray:
    """Return the mask of a shape on a square of ``size`` pixels."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    half = size / 2
    return {
        "disc": x**2 + y**2 <= half**2,
        "square": np.ones((size, size), bool),
        "bar": np.abs(y) <= half / 2,
        "stripes": np.mod(x + half, 8) < 4,
        "triangle": np.abs(x) <= (y + half) / 2,
        "ring": (x**2 + y**2 <= half**2) & (x**2 + y**2 >= (half / 2) ** 2),
        "cross": (np.abs(x) <= half / 3) | (np.abs(y) <= half / 3),
    }[shape]


def render_frames(scene: Scene) -> np.ndarray:
    """Return the clip's frames ``[FRAMES, FRAME_SIZE, FRAME_SIZE, 3]``, uint8.

    A source is a coloured shape in its quarter of the frame; while it acts, a white border surrounds it.
    """
    rng = np.random.default_rng((scene.seed, 2))
    base = np.empty((FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    base[:] = rng.integers(50, 70)
    quarter, glyph_size = FRAME_SIZE // 2, 20
    inset = (quarter - glyph_size) // 2
    corners = {s: ((s.cell // 2) * quarter, (s.cell % 2) * quarter) for s in scene.sources}
    for source, (top, left) in corners.items():
        if source.visible:
            patch = base[top + inset : top + inset + glyph_size, left + inset : left + inset + glyph_size]
            patch[shape_mask(SHAPES[source.sound], glyph_size)] = COLOURS[source.sound]
    frames = np.repeat(base[None], FRAMES, axis=0)
    for source, (top, left) in corners.items():
        if not source.visible:
            continue
        for frame in frames[slot_frames(source.slot)]:
            area = frame[top + 1 : top + quarter - 1, left + 1 : left + quarter - 1]
            for edge in (area[:3], area[-3:], area[:, :3], area[:, -3:]):
                edge[:] = 255
    return frames


def slot_frames(slot: int) -> slice:
    """Return the frames in which a source of this slot acts."""
    return slice(slot * FRAMES // SLOTS, (slot + 1) * FRAMES // SLOTS)


def duration() -> float:
    """Return a clip's length in seconds."""
    return SAMPLES / SAMPLE_RATE
