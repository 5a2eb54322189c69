"""Files of records that grow while a stage runs, one for each rank, and survive being killed."""

import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from datamodules.records import Record, RecordError, UserError, read_jsonl

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
            self._file = open(path, "ab")  # noqa: SIM115  (closed by close)
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

    def append(self, records: Iterable[Record]) -> int:
        """Append records in one piece.

        Returns:
            How many there were.
        """
        lines = [record.to_json() + "\n" for record in records]
        if lines:
            self._file.write("".join(lines).encode("utf-8"))
            self._file.flush()
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                self._sync()
        return len(lines)

    def close(self) -> None:
        """Make sure that everything is on disk, and let others write."""
        if not self._file.closed:
            self._sync()
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def shard_name(rank: int) -> str:
    """Return the file name of a rank's shard."""
    return f"rank-{rank:05d}.jsonl"


def cut_torn_line(shard: Path, record: type[Record]) -> bool:
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
