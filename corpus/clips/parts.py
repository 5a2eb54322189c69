"""The work in parts, each of which one process does: a list of inputs on disk, and a log of what came of each.

A log grows by one line for each input, in the order of the part. A run that is killed goes on behind the last whole
line, and a log that is complete takes its name in one step.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from corpus.clips.examination import Examiner
from corpus.clips.inputs import Inputs
from corpus.clips.records import Examined, Input, LeftOut
from corpus.clips.tar_shards import shard_samples
from datamodules.media.media_files import MediaError, resolve_media
from records.records import read_jsonl
from records.shards import Shard, truncate_partial_line
from runtime.whole_folder import whole_folder

INPUTS_OF_A_PART = 256
"""Files or rows; an archive is a part of its own."""


@dataclass(frozen=True)
class Parts:
    """The parts below a folder.

    Attributes:
        folder: Holds ``parts``, ``growing`` and ``examined``.
        inputs: What clips are made from.
    """

    folder: Path
    inputs: Inputs

    @property
    def lists(self) -> Path:
        """Folder of the lists of inputs."""
        return self.folder / "parts"

    def write(self) -> int:
        """Write the lists where they are not there yet; returns how many there are."""
        if not self.lists.is_dir():
            size = 1 if self.inputs.shards is not None else INPUTS_OF_A_PART
            listed = self.inputs.listed()
            with whole_folder(self.lists) as folder:
                number = 0
                while some := list(islice(listed, size)):
                    text = "".join(one.to_json() + "\n" for one in some)
                    (folder / f"{number:06d}.jsonl").write_text(text, encoding="utf-8")
                    number += 1
        return sum(1 for _ in os.scandir(self.lists))

    def log(self, number: int) -> Path:
        """Return the complete log of a part, which is there when the part is done."""
        return self.folder / "examined" / f"{number:06d}.jsonl"

    def done(self, number: int) -> bool:
        """Return whether a part is done."""
        return self.log(number).exists()

    def examine(self, number: int, examiner: Examiner) -> int:
        """Do what is left of a part; returns how many inputs were examined.

        Raises:
            UserError: Another process does it, or its log cannot be written.
        """
        if self.done(number):
            return 0
        growing = self.folder / "growing" / f"{number:06d}.jsonl"
        log = Shard(growing)  # which no other process can have
        try:
            if self.done(number):
                growing.unlink(missing_ok=True)
                return 0
            truncate_partial_line(growing, Examined)
            before = sum(1 for _ in read_jsonl(growing, Examined))
            examined = 0
            for one in islice(self._inputs(number), before, None):
                log.append([examiner.examine(one)])
                examined += 1
            self.log(number).parent.mkdir(parents=True, exist_ok=True)
            os.replace(growing, self.log(number))
        finally:
            log.close()
        return examined

    def _inputs(self, number: int) -> Iterator[Input | LeftOut]:
        with (self.lists / f"{number:06d}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                kind = LeftOut if f'"{LeftOut.schema}"' in line[:40] else Input
                one = kind.from_json(line)
                if isinstance(one, Input) and self.inputs.shards is not None:
                    try:
                        yield from shard_samples(resolve_media(self.inputs.root, one.path, True), one.path)
                    except MediaError as error:
                        yield LeftOut(one.path, "unreadable", str(error))
                else:
                    yield one
