"""Where the records of a stage are: files, and folders of the files that each rank wrote."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from records.records import Record, RecordError, read_jsonl

R = TypeVar("R", bound=Record)


def listed(files: str | Iterable[str] | None) -> list[str]:
    """Return files and folders as a list where a configuration may name one, several or none.

    Args:
        files: What it names.
    """
    return [files] if isinstance(files, str) else list(files or ())


def record_files(paths: Iterable[str]) -> list[Path]:
    """Return the JSONL files that are named or lie in the named folders, folders' files by name.

    Raises:
        RecordError: A path does not exist, or a folder has no such file.
    """
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            shards = sorted(path.glob("*.jsonl"))
            if not shards:
                raise RecordError(f"{path}: there is no .jsonl file in this folder")
            files.extend(shards)
        elif path.is_file():
            files.append(path)
        else:
            raise RecordError(f"{path}: the file is missing")
    return files


def read_records(paths: Iterable[str], record: type[R]) -> Iterator[R]:
    """Yield the records of all files that are named or lie in the named folders.

    Args:
        paths: Files and folders.
        record: What they hold.

    Raises:
        RecordError: A file is missing, or a line is malformed.
    """
    for file in record_files(paths):
        yield from read_jsonl(file, record)
