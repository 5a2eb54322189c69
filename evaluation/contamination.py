"""Clips that a training set and a benchmark share: by YouTube id and start where the names tell, else by sound."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datamodules.media.audio import AUDIO_SUFFIXES, ClipFolder, MediaError
from evaluation.benchmarks import BENCHMARKS, data_module
from evaluation.fingerprint import Fingerprint, FingerprintIndex, fingerprint
from runtime.errors import UserError

CLIP_SECONDS = 10.0
"""Length of the clips of VGG-Sound and AudioSet: clips of one video that begin less than this apart overlap."""

_VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".m4a", ".avi", ".mov"})
_START = re.compile(r"(?P<seconds>\d{6})|(?P<short>\d+(?:\.\d+)?)s|(?P<range>\d+(?:\.\d+)?)_\d+(?:\.\d+)?")
_ID = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})_(?P<start>.+)")
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class ClipSet:
    """The clips of a training set or of a benchmark.

    Attributes:
        name: As the user calls it.
        clips: Where they are.
        media: The clips' paths in ``clips``.
        questions: The questions on each clip, where there are any.
    """

    name: str
    clips: ClipFolder
    media: tuple[str, ...]
    questions: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """A clip of the training set and one of the benchmark that are the same, or overlap.

    Attributes:
        train: The training set's clip.
        benchmark: The benchmark's clip.
        how: ``same name``, ``overlapping`` or ``same sound``.
        why: What they have in common, in words.
    """

    train: str
    benchmark: str
    how: str
    why: str


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        shared: The shared clips, in the benchmark's order.
        unheard: Clips that could not be compared by sound, by name with the reason.
        by_name: How many pairs of clips were decided by their names alone.
        by_sound: How many clips were listened to.
    """

    shared: tuple[Shared, ...]
    unheard: Mapping[str, str]
    by_name: int
    by_sound: int


def youtube_clip(media: str) -> tuple[str, float] | None:
    """Return YouTube id and start in seconds where a clip's file name has them, else None.

    Known are ``<id>_000030`` (VGG-Sound, AVQA), ``<id>_30s``, and ``<id>_30.000_40.000`` or ``<id>_30_40`` (AudioSet).
    """
    found = _ID.fullmatch(PurePosixPath(media).with_suffix("").name)
    start = _START.fullmatch(found["start"]) if found else None
    if found is None or start is None:
        return None
    return found["id"], float(start["seconds"] or start["short"] or start["range"])


def read_clip_set(text: str, data: Path) -> ClipSet:
    """Return the clips of a split of a dataset, or of a folder.

    Args:
        text: ``avqa:train``, ``avqa:val``, ``mmau``, ``music_avqa``, or a folder with audio or video files.
        data: The folder that holds the datasets' folders.

    Raises:
        UserError: There is no such dataset or folder, or it has no clips.
    """
    dataset, _, split = text.partition(":")
    if dataset not in BENCHMARKS and Path(text).is_dir():
        suffixes = AUDIO_SUFFIXES | _VIDEO_SUFFIXES
        files = sorted(path for path in Path(text).rglob("*") if path.suffix.lower() in suffixes)
        if not files:
            raise UserError(f"{text}: there are no audio or video files in the folder")
        media = tuple(path.relative_to(text).as_posix() for path in files)
        return ClipSet(text, ClipFolder(Path(text), follow_links=True), media)
    if dataset not in BENCHMARKS or split not in ("", "train", "val") or (split and dataset != "avqa"):
        raise UserError(f"{text}: give avqa:train, avqa:val, mmau, music_avqa or a folder of clips")
    questions = data_module(dataset, data / dataset).questions("train" if split == "train" else "test")
    on: dict[str, list[str]] = {}
    for question in questions:
        on.setdefault(question.media, []).append(question.id)
    return ClipSet(text, ClipFolder(data / dataset, follow_links=True), tuple(on), on)


def audit(
    train: ClipSet, benchmark: ClipSet, threads: int = 2, say: Callable[[str], None] = lambda line: None
) -> Audit:
    """List the clips that a training set and a benchmark share.

    Two clips whose names both tell a YouTube id and a start are compared by these. All others are listened to.

    Args:
        train: The training set.
        benchmark: The benchmark.
        threads: How many clips are decoded at once.
        say: Told every ten seconds how far it is.
    """
    known_train = {media: clip for media in train.media if (clip := youtube_clip(media))}
    known_benchmark = {media: clip for media in benchmark.media if (clip := youtube_clip(media))}
    shared = list(_by_name(known_train, known_benchmark))
    nameless_train = [media for media in train.media if media not in known_train]
    nameless_benchmark = [media for media in benchmark.media if media not in known_benchmark]
    # a nameless clip is compared with all clips of the other side, a named one with the nameless ones there
    heard_benchmark = list(benchmark.media) if nameless_train else nameless_benchmark
    heard_train = list(train.media) if nameless_benchmark else nameless_train if heard_benchmark else []
    unheard: dict[str, str] = {}

    def prints(side: ClipSet, media: Sequence[str], grids: int = 1) -> Iterator[tuple[str, Fingerprint]]:
        for name, printed, problem in fingerprints(side, media, grids, threads, say):
            if printed is None:
                unheard[f"{side.name}/{name}"] = problem
            else:
                yield name, printed

    if heard_train and heard_benchmark:
        index = FingerprintIndex(prints(benchmark, heard_benchmark, grids=2))
        for name, printed in prints(train, heard_train):
            for match in index.search(name, printed):
                if name in known_train and match.known in known_benchmark:
                    continue  # decided by their names
                why = (
                    f"{match.pairs} pairs of peaks ({100 * match.share:.0f}%) agree, {match.shift_seconds:.2f} s apart"
                )
                shared.append(Shared(name, match.known, "same sound", why))
    order = {media: place for place, media in enumerate(benchmark.media)}
    shared.sort(key=lambda pair: (order[pair.benchmark], pair.train))
    listened = len(heard_train) + len(heard_benchmark) if heard_train and heard_benchmark else 0
    return Audit(tuple(shared), unheard, len(known_train) * len(known_benchmark), listened)


def _by_name(train: Mapping[str, tuple[str, float]], benchmark: Mapping[str, tuple[str, float]]) -> Iterator[Shared]:
    starts: dict[str, list[tuple[float, str]]] = {}
    for media, (video, start) in train.items():
        starts.setdefault(video, []).append((start, media))
    for media, (video, start) in benchmark.items():
        for other, name in starts.get(video, []):
            if other == start:
                yield Shared(name, media, "same name", f"both are {video} from {start:g} s on")
            elif abs(other - start) < CLIP_SECONDS:
                yield Shared(name, media, "overlapping", f"{video} from {other:g} s and from {start:g} s on")


def fingerprints(
    side: ClipSet, media: Sequence[str], grids: int, threads: int, say: Callable[[str], None]
) -> Iterator[tuple[str, Fingerprint | None, str]]:
    """Yield each clip of a set with its fingerprint, or with None and the reason why it has none.

    Args:
        side: The set.
        media: Which of its clips.
        grids: Of frames, see :func:`.fingerprint.fingerprint`.
        threads: How many clips are decoded at once.
        say: Told every ten seconds how far it is.
    """

    def read(name: str) -> tuple[str, Fingerprint | None, str]:
        try:
            printed = fingerprint(side.clips.load(name), grids)
        except MediaError as error:
            return name, None, str(error)
        return (name, printed, "") if printed.distinctive else (name, None, "too little sound to be told from others")

    spoken = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for done, found in enumerate(pool.map(read, media), 1):
            if time.monotonic() - spoken > _SECONDS_BETWEEN_LINES:
                spoken = time.monotonic()
                say(f"{side.name}: {done} of {len(media)} clips were listened to")
            yield found
