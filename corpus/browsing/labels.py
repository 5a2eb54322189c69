"""What people say of traces, as verdicts on disk beside those of a checker."""

import os
import re
from pathlib import Path

from records.records import Verdict, read_jsonl
from records.shards import Shard, truncate_partial_line
from runtime.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

PERSON = "person:"
"""What the name of a checker begins with who is a person."""


class LabelFile:
    """One person's verdicts, appended to one after another; the last on a trace counts, and it can be taken back."""

    def __init__(self, directory: Path, name: str) -> None:
        """Open a person's file.

        Args:
            directory: Its folder.
            name: The person's name: letters, digits, dots, underscores and hyphens.

        Raises:
            UserError: The name cannot be one of a file, or the file cannot be written or has another's lines.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"--label {name!r}: a name of letters, digits, '.', '_' and '-' is needed")
        self.checker = PERSON + name
        self.path = directory / f"{name}.jsonl"
        if self.path.exists():
            truncate_partial_line(self.path, Verdict)
        self._shard = Shard(self.path)
        self._undo: list[tuple[int, Verdict]] = []

    def current(self) -> dict[tuple[str, int], Verdict]:
        """Return the verdicts that count, by question and sample."""
        return {(verdict.question_id, verdict.sample): verdict for verdict in read_jsonl(self.path, Verdict)}

    def add(self, question_id: str, sample: int, accepted: bool, question_fingerprint: str) -> Verdict:
        """Write a verdict.

        Args:
            question_id: The trace's question.
            sample: The trace's sample.
            accepted: Whether its claims fit the sound.
            question_fingerprint: What the question asks.
        """
        verdict = Verdict(question_id, sample, accepted, self.checker, question_fingerprint=question_fingerprint)
        self._undo.append((self.path.stat().st_size, verdict))
        self._shard.append([verdict])
        return verdict

    def undo(self) -> Verdict | None:
        """Take back the last verdict of this sitting; returns it, or None where there is none."""
        if not self._undo:
            return None
        size, verdict = self._undo.pop()
        os.truncate(self.path, size)
        return verdict

    def close(self) -> None:
        """Make sure that everything is on disk."""
        self._shard.close()
