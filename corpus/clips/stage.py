"""The stage: from inputs to ``clips``, ``left_out`` and ``report.json``, on as many processes as there are."""

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from corpus.clips.examination import Examiner
from corpus.clips.inputs import Inputs
from corpus.clips.known_clips import SOUNDS_LIKE, KnownClips, read_known
from corpus.clips.near_duplicates import Duplicates, find_duplicates
from corpus.clips.parts import Parts
from corpus.clips.records import REASONS, Examined, LeftOut
from corpus.clips.settings import ClipSettings
from evaluation.contamination import read_clip_set
from records.clips import Clip
from records.records import read_jsonl, write_jsonl
from runtime.errors import UserError
from runtime.file_lock import locked
from runtime.parent_death import end_with_parent
from runtime.whole_file import remove_partial, write_whole
from runtime.whole_folder import remove_path, whole_folder

REPORT = "report.json"
_SECONDS_BETWEEN_LINES = 10.0
_LONGEST_WAIT = 24 * 3600.0


def silent(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class ClipStage:
    """What is to be done, and by whom.

    Attributes:
        inputs: What clips are made from.
        settings: What a clip has to be.
        output: Folder that is written.
        against: Benchmarks whose clips are kept out, as ``python -m evaluation audit`` names them.
        data: Folder of the benchmarks' folders.
        rank: Which of the processes this one is, all machines together.
        ranks: How many there are.
    """

    inputs: Inputs
    settings: ClipSettings
    output: Path
    against: tuple[str, ...] = ()
    data: Path = Path("data")
    rank: int = 0
    ranks: int = 1

    @property
    def work(self) -> Path:
        """Folder of what is kept meanwhile."""
        return self.output / "work"

    @property
    def parts(self) -> Parts:
        """The parts of the work."""
        return Parts(self.work, self.inputs)

    def run(self, processes: int = 1, say: Callable[[str], None] = silent) -> bool:
        """Do this rank's share, and what comes at the end where all ranks have done theirs.

        Args:
            processes: Processes of this rank.
            say: Told how far it is.

        Returns:
            Whether the corpus is complete.

        Raises:
            UserError: An input as a whole cannot be read, the output cannot be written or is of other settings.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with locked(self.work / "lock", _LONGEST_WAIT):
            self._check_settings()
            if (self.output / REPORT).exists():
                return True
            count = self.parts.write()
            if not count:
                raise UserError(f"{self.inputs.root}: there is nothing to make clips from")
            self._known(say)  # so that its fingerprints are on disk before others look
        if processes == 1:
            self.examine(self.rank, self.ranks, say)
        else:
            shares = [self.rank * processes + number for number in range(processes)]
            share = partial(self.examine, ranks=self.ranks * processes, say=say)
            with ProcessPoolExecutor(processes, get_context("spawn"), initializer=end_with_parent) as pool:
                list(pool.map(share, shares))
        if not all(map(self.parts.done, range(count))):
            return False
        with locked(self.work / "lock", _LONGEST_WAIT):
            if not (self.output / REPORT).exists():
                say(f"{count} parts are examined; near-duplicates are looked for")
                self._finish(count)
        return True

    def examine(self, rank: int, ranks: int, say: Callable[[str], None] = silent) -> int:
        """Examine every ``ranks``-th part from ``rank`` on; returns how many inputs that were."""
        torch.set_num_threads(1)
        known, _ = self._known(say)
        examiner = Examiner(self.inputs.root, self.settings, known, self.inputs.follow_links)
        examined, began = 0, time.monotonic()
        spoken = began
        mine = range(rank, self.parts.write(), ranks)
        for place, number in enumerate(mine, 1):
            examined += self.parts.examine(number, examiner)
            if time.monotonic() - spoken > _SECONDS_BETWEEN_LINES:
                spoken = time.monotonic()
                speed = examined / (spoken - began)
                say(f"rank {rank}: {place} of {len(mine)} parts, {examined} files, {speed:.1f} files/s")
        return examined

    def _known(self, say: Callable[[str], None]) -> tuple[KnownClips, list[dict[str, object]]]:
        sets = [read_clip_set(name, self.data) for name in self.against]
        return read_known(sets, self.work / "benchmarks", say)

    def _check_settings(self) -> None:
        """Refuse a folder in which clips were made otherwise."""
        manifest = self.inputs.manifest
        now = {
            **dataclasses.asdict(self.settings),
            "root": str(self.inputs.root.resolve()),
            "manifest": _digest(manifest) if manifest else None,
            "shards": self.inputs.shards,
            "against": list(self.against),
        }
        place = self.work / "settings.json"
        if not place.exists():
            write_whole(place, [json.dumps(now, indent=1) + "\n"])
        before = json.loads(place.read_text(encoding="utf-8"))
        if changed := [name for name in now if now[name] != before.get(name)]:
            raise UserError(
                f"{self.output} was begun with other settings ({', '.join(changed)}): name another folder with "
                "--output, or remove this one"
            )

    def _finish(self, count: int) -> None:
        logs = [self.parts.log(number) for number in range(count)]
        duplicates = find_duplicates(logs, self.work / "duplicates")
        totals = _Totals()
        for name in ("clips", "left_out"):
            remove_path(self.output / name)
        remove_partial(self.output)
        with whole_folder(self.output / "clips") as clips, whole_folder(self.output / "left_out") as left_out:
            first = 0
            for log, number in zip(logs, range(count), strict=True):
                kept, left, found = _sorted_out(log, first, duplicates)
                write_jsonl(clips / f"{number:06d}.jsonl", kept)
                write_jsonl(left_out / f"{number:06d}.jsonl", left)
                totals.add(kept, left, log)
                first += found
        _, benchmarks = self._known(silent)
        for one in benchmarks:
            one["kept_out_by_sound"] = sum(
                count for known, count in totals.benchmark.items() if known.startswith(f"{one['benchmark']}/")
            )
        report = {
            **totals.report(),
            "settings": dataclasses.asdict(self.settings),
            "benchmarks": benchmarks,
        }
        remove_path(self.work / "duplicates")
        write_whole(self.output / REPORT, [json.dumps(report, indent=1, ensure_ascii=False) + "\n"], lasting=True)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


class _Totals:
    """Counts for the report."""

    def __init__(self) -> None:
        self.inputs = self.clips = 0
        self.seconds = self.seconds_seen = 0.0
        self.reasons: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()
        self.benchmark: Counter[str] = Counter()

    def add(self, kept: Sequence[Clip], left: Sequence[LeftOut], log: Path) -> None:
        for examined in read_jsonl(log, Examined):
            self.inputs += 1
            self.seconds_seen += examined.seconds
        self.clips += len(kept)
        self.seconds += sum(clip.end - clip.start for clip in kept)
        self.licences.update(clip.license for clip in kept)
        for one in left:
            self.reasons[one.reason] += one.count
            if one.reason == "benchmark":
                self.benchmark[one.detail.removeprefix(SOUNDS_LIKE)] += 1

    def report(self) -> dict[str, object]:
        return {
            "inputs": self.inputs,
            "hours_of_inputs": round(self.seconds_seen / 3600, 3),
            "clips": self.clips,
            "hours_of_clips": round(self.seconds / 3600, 3),
            "left_out": {reason: self.reasons[reason] for reason in REASONS if self.reasons[reason]},
            "licenses": dict(sorted(self.licences.items())),
        }


def _sorted_out(log: Path, first: int, duplicates: Duplicates) -> tuple[list[Clip], list[LeftOut], int]:
    """Return the clips of a log, what is left out of it, and how many clips there were before near-duplicates went."""
    kept: list[Clip] = []
    left: list[LeftOut] = []
    found = 0
    for examined in read_jsonl(log, Examined):
        left += [LeftOut(**fields) for fields in examined.left_out]
        for clip in (Clip(**fields) for fields in examined.clips):
            other = duplicates.of(first + found)
            found += 1
            if other is None:
                kept.append(clip)
            else:
                left.append(LeftOut(examined.name, "near-duplicate", SOUNDS_LIKE + other, clip.start, clip.end))
    return kept, left, found


def read_left_out(output: Path) -> Iterator[LeftOut]:
    """Yield what was left out of a corpus, file by file."""
    for file in sorted((output / "left_out").glob("*.jsonl")):
        yield from read_jsonl(file, LeftOut)
