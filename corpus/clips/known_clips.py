"""The clips of benchmarks, which never become clips of a corpus: found by their names and by their sound."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corpus.clips.stored_print import from_text, to_text
from evaluation.contamination import CLIP_SECONDS, ClipSet, fingerprints, youtube_clip
from evaluation.fingerprint import Fingerprint, FingerprintIndex
from runtime.whole_file import write_whole

SOUNDS_LIKE = "it sounds like "

GRIDS = 2
"""Grids of frames on which known clips are taken, so that one that begins between two frames is found as well."""


@dataclass(frozen=True)
class KnownClips:
    """Clips to keep out.

    Attributes:
        index: They by their sound.
        starts: YouTube ids that their names tell, with the seconds at which they begin.
    """

    index: FingerprintIndex
    starts: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def none(cls) -> "KnownClips":
        """Return an empty collection."""
        return cls(FingerprintIndex(()))

    def find(self, path: Path, start: float, printed: Fingerprint) -> str:
        """Return which known clip a clip is or overlaps, in words; empty where there is none.

        Args:
            path: Its file.
            start: Where it begins in the file, in seconds.
            printed: Its fingerprint.
        """
        if named := youtube_clip(path.name):
            video, begins = named
            for other in self.starts.get(video, ()):
                if abs(begins + start - other) < CLIP_SECONDS:
                    return f"its name says {video} from {begins + start:g} s on, a benchmark has it from {other:g} s on"
        for match in self.index.search(path.name, printed):
            share = f"{match.pairs} pairs of peaks ({100 * match.share:.0f}%) agree"
            return f"{SOUNDS_LIKE}{match.known}: {share}, {match.shift_seconds:.2f} s apart"
        return ""


def read_known(
    sets: Sequence[ClipSet], cache: Path, say: Callable[[str], None] = lambda line: None
) -> tuple[KnownClips, list[dict[str, object]]]:
    """Return the clips of benchmarks, and for each benchmark what the report says of it.

    Args:
        sets: The benchmarks.
        cache: Folder that keeps the fingerprints of each benchmark, found again by its files' names and sizes.
        say: Told how far it is.
    """
    known: list[tuple[str, Fingerprint]] = []
    starts: dict[str, list[float]] = {}
    said: list[dict[str, object]] = []
    for one in sets:
        for media in one.media:
            if named := youtube_clip(media):
                starts.setdefault(named[0], []).append(named[1])
        place = cache / f"{_key(one)}.jsonl"
        if not place.exists():
            say(f"{one.name}: {len(one.media)} clips are listened to")
            lines = (
                json.dumps({"clip": name, "print": None if printed is None else to_text(printed), "problem": problem})
                for name, printed, problem in fingerprints(one, one.media, GRIDS, 2, say)
            )
            write_whole(place, (line + "\n" for line in lines))
        unheard = {}
        with place.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row["print"] is None:
                    unheard[row["clip"]] = row["problem"]
                else:
                    known.append((f"{one.name}/{row['clip']}", from_text(row["print"])))
        said.append({"benchmark": one.name, "clips": len(one.media), "not_compared_by_sound": unheard})
    return KnownClips(FingerprintIndex(known), starts), said


def _key(one: ClipSet) -> str:
    facts = [one.name]
    for media in one.media:
        path = one.clips.path(media)
        facts.append(f"{media} {path.stat().st_size if path.exists() else 0}")
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
