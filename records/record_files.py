"""Where the records of a stage are: files, and folders of the files that each rank wrote."""

from collections.abc import Iterable
from pathlib import Path

from records.records import RecordError


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
