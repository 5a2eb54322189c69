"""What was found wrong while a dataset was read: counted, written down, never dropped in silence."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from records.records import RecordError
from records.valid_text import valid_text
from runtime.errors import UserError
from runtime.whole_file import write_whole

BadRecordPolicy = Literal["skip", "raise"]


@dataclass(frozen=True)
class Finding:
    """One row that was left out or repaired.

    Attributes:
        file: The annotation file.
        row: The row's number in the file, from 1.
        id: The question's id where it could be read.
        kind: What is wrong in a few words.
        reason: What is wrong in one sentence.
        repaired: True when the row is used all the same.
    """

    file: str
    row: int
    id: str | None
    kind: str
    reason: str
    repaired: bool = False


class RecordReport:
    """Collects findings, or stops at the first row that cannot be used.

    Attributes:
        policy: What to do with bad rows.
        findings: What was found.
        outside: How many rows are not in the subset that is asked for, which is no fault of theirs.
    """

    def __init__(self, policy: BadRecordPolicy = "skip") -> None:
        """Start an empty report.

        Args:
            policy: ``skip`` leaves bad rows out, ``raise`` stops at the first one.
        """
        self.policy = policy
        self.findings: list[Finding] = []
        self.outside = 0

    def add(self, finding: Finding) -> None:
        """Note a finding.

        Raises:
            RecordError: The row cannot be used and the policy is ``raise``.
        """
        if self.policy == "raise" and not finding.repaired:
            raise RecordError(f"{finding.file}: row {finding.row}: {finding.reason}")
        self.findings.append(finding)

    @property
    def left_out(self) -> int:
        """How many rows were left out."""
        return sum(not finding.repaired for finding in self.findings)

    def counts(self) -> str:
        """Return one line, for example ``3 left out (2 missing media, 1 null option), 1 repaired (1 number)``."""
        parts = []
        for word, repaired in (("left out", False), ("repaired", True)):
            kinds = Counter(finding.kind for finding in self.findings if finding.repaired is repaired)
            if kinds:
                listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
                parts.append(f"{kinds.total()} {word} ({listed})")
        return ", ".join(parts)

    def write(self, path: Path) -> None:
        """Write the findings as JSON lines; without findings an older report is removed.

        Raises:
            UserError: The file cannot be written.
        """
        lines = (valid_text(json.dumps(asdict(finding), ensure_ascii=False)) + "\n" for finding in self.findings)
        try:
            if self.findings:
                write_whole(path, lines)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"the report of bad records cannot be written to {path} ({error.strerror}); "
                "set data.report_dir to a folder that can be written"
            ) from None
