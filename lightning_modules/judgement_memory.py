"""What a checker behind an endpoint has said, by clip and trace: in memory, and on disk where a run may go on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from records.records import Question, Record, Trace
from records.request_records import Usage, spent
from records.shards import JsonlShards


@dataclass(frozen=True)
class KeptJudgement(Record):
    """The checker's word on a trace of the student.

    Attributes:
        key: Of clip, question, trace and checker, see :func:`judgement_key`.
        question_id: The question.
        probabilities: Of "yes" for the trace, or for each of its claims.
        evidence: What they rest on.
    """

    schema: ClassVar[str] = "judgement/1"

    key: str
    question_id: str
    probabilities: tuple[float, ...]
    evidence: tuple[str, ...] = ()


_FOLDERS: dict[type[Record], str] = {KeptJudgement: "judgements", Usage: "usage"}


class JudgementMemory:
    """Judgements that were made, and what was spent on them.

    Each rank appends to files of its own and reads those of all; what another rank judges meanwhile is not seen before
    the next start.
    """

    def __init__(self, directory: str | None) -> None:
        """Begin empty.

        Args:
            directory: Where they are kept for later runs; None keeps them in memory only.
        """
        self._shards = JsonlShards(Path(directory), _FOLDERS) if directory else None
        self._known: dict[str, tuple[float, ...]] = {}

    def open(self, rank: int) -> tuple[int, float]:
        """Read what is on disk and open this rank's files.

        Args:
            rank: The rank.

        Returns:
            Tokens and money that all ranks and runs have spent.
        """
        if self._shards is None:
            return 0, 0.0
        self._shards.open(_FOLDERS, rank)
        self._known = {one.key: one.probabilities for one in self._shards.read(KeptJudgement)}
        return spent(self._shards.read(Usage))

    def get(self, key: str) -> tuple[float, ...] | None:
        """Return a judgement, or None where there is none."""
        return self._known.get(key)

    def keep(self, judgements: Sequence[KeptJudgement], usage: Sequence[Usage]) -> None:
        """Add judgements and what was spent, also on what came to nothing.

        Args:
            judgements: The judgements.
            usage: What requests took.
        """
        self._known.update({one.key: one.probabilities for one in judgements})
        if self._shards is not None:
            self._shards.append(Usage, usage)
            self._shards.append(KeptJudgement, judgements)

    def close(self) -> None:
        """Close the files."""
        if self._shards is not None:
            self._shards.close()


def clip_key(waveform: np.ndarray) -> str:
    """Return a name for the samples of a clip."""
    return hashlib.sha256(np.ascontiguousarray(waveform).tobytes()).hexdigest()


def judgement_key(clip: str, question: Question, trace: Trace, checker: Sequence[str]) -> str:
    """Return a name for what is asked of a checker.

    Args:
        clip: Of the samples, see :func:`clip_key`.
        question: What was asked.
        trace: What the student said.
        checker: What else the answer depends on: the checker's name, the prompts.
    """
    parts = [clip, question.fingerprint, trace.reasoning, trace.answer or "", *checker]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
