"""Under which terms clips may be used, as the files of clips say."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from records.record_files import record_files
from records.records import RecordError


@dataclass(frozen=True)
class ClipTerms:
    """Where a clip comes from.

    Attributes:
        source: For example an address.
        license: Under which terms it may be used.
    """

    source: str = ""
    license: str = ""


def read_terms(paths: Iterable[str]) -> dict[str, ClipTerms]:
    """Return source and licence of each clip.

    Args:
        paths: Files of clips, an object with ``clip``, ``source`` and ``license`` a line, and folders of such files.

    Raises:
        RecordError: A file is missing, or a line is no object with a clip.
    """
    terms = {}
    for file in record_files(paths):
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    terms[str(row["clip"])] = ClipTerms(str(row.get("source") or ""), str(row.get("license") or ""))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise RecordError(f"{file}:{number}: not a clip with its source and licence") from None
    return terms
