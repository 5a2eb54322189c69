"""Samples of WebDataset shards as video2dataset writes them: ``<key>.mp4`` beside ``<key>.json`` in a tar archive.

Members are found by their headers and stay where they are. Python's ``tarfile`` reads the headers one after the other,
so that memory does not grow with the archive's bytes.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.clips.records import Input, LeftOut
from datamodules.media.segments import LARGEST_MEMBER

VIDEOS = frozenset({"mp4", "mkv", "webm", "mov", "avi", "m4v"})
REPEATED = "duplicate key"
_LARGEST_JSON = 2**20


@dataclass
class _Sample:
    key: str
    video: tarfile.TarInfo | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    repeated: bool = False


def shard_samples(shard: Path, path: str) -> Iterator[Input | LeftOut]:
    """Yield the videos of a shard in its order, and what cannot be used of it.

    Args:
        shard: The archive.
        path: Its path relative to the root.
    """
    seen: set[str] = set()
    sample: _Sample | None = None
    torn = ""
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            ends = 0
            for member in tar:
                ends = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.offset_data + member.size > size:
                    torn = f"{member.name} is not there as a whole"
                    break
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield from _made(sample, path)
                    sample = _Sample(key)
                    if key in seen:
                        sample.wrong.append((REPEATED, "an earlier sample of the shard has the same key"))
                        sample.repeated = True
                    seen.add(key)
                _add(sample, member, suffix.lower(), tar)
        torn = torn or _not_ended(shard, ends)
    except tarfile.TarError as error:
        torn = str(error)
    except OSError as error:
        yield LeftOut(path, "unreadable", f"the archive cannot be read ({error.strerror})")
    if sample is not None:
        yield from _made(sample, path)
    if torn:
        yield LeftOut(path, "torn shard", f"the archive breaks off or is none ({torn}); what stands before is used")


def _not_ended(shard: Path, ends: int) -> str:
    """Return what is wrong behind the last member, where a whole archive has zeros: tarfile just ends there."""
    with shard.open("rb") as file:
        file.seek(ends)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return f"it ends at byte {ends + len(block)} without the mark of its end"
    return f"what follows at byte {ends} is no member" if any(block) else ""


def _add(sample: _Sample, member: tarfile.TarInfo, suffix: str, tar: tarfile.TarFile) -> None:
    if suffix in VIDEOS:
        if sample.video is not None:
            sample.wrong.append((REPEATED, f"{member.name} is a second video of one key"))
        elif member.size > LARGEST_MEMBER:
            sample.wrong.append(("unreadable", f"{member.size} bytes are too many in an archive: unpack it"))
        else:
            sample.video = member
    elif suffix == "json" and member.size <= _LARGEST_JSON:
        content = tar.extractfile(member)
        try:
            facts = json.loads(content.read() if content else b"{}")
        except (ValueError, RecursionError):
            facts = None
        if isinstance(facts, dict):
            sample.facts = facts
        else:
            sample.wrong.append(("malformed row", f"{member.name} is no JSON object"))


def _made(sample: _Sample, path: str) -> Iterator[Input | LeftOut]:
    name = f"{path}!{sample.key}"
    if sample.video is None and not sample.wrong:
        said = sample.facts.get("error_message")
        detail = f"there is no video of this key{f' ({said})' if said else ''}"
        yield LeftOut(name, "no video in sample", detail)
    for reason, detail in sample.wrong:
        yield LeftOut(name, reason, detail)
    if sample.video is not None and not sample.repeated:
        facts, video = sample.facts, sample.video
        yield Input(
            path,
            source=_text(facts, "url", "source"),
            license=_text(facts, "license", "licence"),
            member=video.name,
            offset=video.offset_data,
            size=video.size,
        )


def _text(facts: dict[str, Any], *names: str) -> str:
    return next((str(facts[name]) for name in names if isinstance(facts.get(name), str | int)), "")
