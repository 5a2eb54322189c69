"""Files of records that grow while a stage runs, one for each rank, and survive being killed."""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from records.records import Record, RecordError, read_jsonl
from runtime.errors import UserError

_SECONDS_BETWEEN_SYNCS = 1.0


class Shard:
    """One rank's file of records, appended to by one process at a time.

    What was appended survives the end of the process at once, and that of the machine after a second.
    """

    def __init__(self, path: Path) -> None:
        """Open the file for appending; it is made when it is missing.

        Args:
            path: The file.

        Raises:
            UserError: It cannot be written, or another process writes it.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by close)
        except OSError as error:
            raise UserError(f"records cannot be written to {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"{path} is being written by another run: wait for it, or write to another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._synced = time.monotonic()
        self._failed = False

    def append(self, records: Iterable[Record]) -> int:
        """Append records in one piece.

        Returns:
            How many there were.

        Raises:
            UserError: They cannot be written, for example because the disk is full.
        """
        lines = [record.to_json() + "\n" for record in records]
        try:
            rest = memoryview("".join(lines).encode("utf-8"))
            while rest:
                rest = rest[self._file.write(rest) :]
            if lines and time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                self._sync()
        except OSError as error:
            raise self._failure(error) from error
        return len(lines)

    def close(self) -> None:
        """Make sure that everything is on disk, and let others write.

        Raises:
            UserError: Something is not on disk, and that was not said before.
        """
        if self._file.closed:
            return
        try:
            self._sync()
        except OSError as error:
            if not self._failed:
                raise self._failure(error) from error
        finally:
            self._file.close()

    def _failure(self, error: OSError) -> UserError:
        self._failed = True
        return UserError(
            f"records cannot be written to {self.path}: {error.strerror}; what was written before is kept, and the "
            "same command goes on from there"
        )

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def shard_name(rank: int) -> str:
    """Return the file name of a rank's shard."""
    return f"rank-{rank:05d}.jsonl"


class JsonlShards:
    """Records of several kinds, each in a folder of its own with one file of each rank."""

    def __init__(self, directory: Path, folders: Mapping[type[Record], str]) -> None:
        """Say where they are; nothing is opened.

        Args:
            directory: Holds the folders.
            folders: The folder of each kind.
        """
        self.directory = directory
        self.folders = folders
        self._open: dict[type[Record], Shard] = {}

    def __bool__(self) -> bool:
        """Return True while they are open for appending."""
        return bool(self._open)

    def _files(self, kind: type[Record]) -> list[Path]:
        return sorted((self.directory / self.folders[kind]).glob("*.jsonl"))

    def read(self, kind: type[Record]) -> list[Any]:
        """Return the records of a kind that are on disk, of all ranks and runs."""
        return [one for file in self._files(kind) for one in read_jsonl(file, kind)]

    def repair(self, kinds: Iterable[type[Record]]) -> list[Path]:
        """Remove lines that a killed run did not finish; returns the files that had one."""
        return [file for kind in kinds for file in self._files(kind) if truncate_partial_line(file, kind)]

    def open(self, kinds: Iterable[type[Record]], rank: int) -> None:
        """Open a rank's files for appending."""
        self._open = {kind: Shard(self.directory / self.folders[kind] / shard_name(rank)) for kind in kinds}

    def append(self, kind: type[Record], records: Iterable[Record]) -> int:
        """Append records of a kind in one piece; returns how many there were."""
        return self._open[kind].append(records)

    def close(self) -> None:
        """Make sure that everything is on disk, and let others write."""
        for shard in self._open.values():
            shard.close()
        self._open = {}


def truncate_partial_line(shard: Path, record: type[Record]) -> bool:
    """Remove the last line of a file if a killed process or machine did not finish writing it.

    Args:
        shard: The file.
        record: What its lines are.

    Returns:
        True when something was removed.

    Raises:
        RecordError: Another line is malformed.
    """
    content = shard.read_bytes()
    end = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
    try:
        json.loads(content[last:end] or b"{}")
    except ValueError:
        end = last  # blocks of a crashed machine's disk may be empty
    if end < len(content):
        os.truncate(shard, end)
    try:
        for _ in read_jsonl(shard, record):
            pass
    except RecordError as error:
        raise RecordError(f"{error}; remove the line, or the file to begin anew") from None
    return end < len(content)
