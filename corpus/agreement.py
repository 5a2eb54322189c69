"""How far a checker and a person agree on the same traces: share and Cohen's kappa, with their intervals."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.intervals import RESAMPLES, bootstrap, interval
from records.records import Verdict
from runtime.errors import UserError


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same traces.

    Attributes:
        both_accept: Traces that both accepted.
        only_checker: Traces that only the checker accepted.
        only_person: Traces that only the person accepted.
        both_reject: Traces that both rejected.
        share: Share of traces on which they agree.
        share_interval: Its 95% interval; questions are resampled, since traces of one question are alike.
        kappa: Cohen's kappa, agreement beyond chance; NaN where both gave one and the same verdict throughout.
        kappa_interval: Its 95% interval.
    """

    both_accept: int
    only_checker: int
    only_person: int
    both_reject: int
    share: float
    share_interval: tuple[float, float]
    kappa: float
    kappa_interval: tuple[float, float]

    @property
    def traces(self) -> int:
        """How many traces both judged."""
        return self.both_accept + self.only_checker + self.only_person + self.both_reject


def cohens_kappa(table: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa (Cohen, 1960): (observed - expected) / (1 - expected) agreement.

    Args:
        table: Shares or counts ``[..., 4]``: both accept, only the first, only the second, both reject.

    Returns:
        Kappa ``[...]``; NaN where chance alone explains everything.
    """
    total = table.sum(-1)
    yes_yes, yes_no, no_yes, no_no = np.moveaxis(table, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (yes_yes + no_no) / total
        first, second = (yes_yes + yes_no) / total, (yes_yes + no_yes) / total
        expected = first * second + (1 - first) * (1 - second)
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def agreement(checker: Sequence[bool], person: Sequence[bool], questions: Sequence[Hashable]) -> Agreement:
    """Compare two judges.

    Args:
        checker: The checker's verdict on each trace.
        person: The person's verdict on the same traces.
        questions: Each trace's question.

    Raises:
        UserError: There is no trace.
    """
    if not len(checker):
        raise UserError("no trace has been judged by both")
    a, b = np.array(checker, dtype=bool), np.array(person, dtype=bool)
    cells = np.stack([a & b, a & ~b, ~a & b, ~a & ~b], axis=1).astype(float)
    shares = bootstrap(cells, np.ones_like(cells, dtype=bool), questions, RESAMPLES)
    counts = cells.sum(0)
    both_accept, only_checker, only_person, both_reject = (int(count) for count in counts)
    return Agreement(
        both_accept,
        only_checker,
        only_person,
        both_reject,
        share=float((counts[0] + counts[3]) / len(a)),
        share_interval=interval(shares[:, 0] + shares[:, 3]),
        kappa=float(cohens_kappa(counts)),
        kappa_interval=interval(cohens_kappa(shares)),
    )


def on_same_traces(checker: Iterable[Verdict], person: Iterable[Verdict]) -> tuple[list[bool], list[bool], list[str]]:
    """Return both judges' verdicts on the traces that both judged (of several the last), and each trace's question.

    Args:
        checker: The checker's verdicts.
        person: The person's verdicts.
    """
    checked = {(v.question_id, v.sample, v.question_fingerprint): v.accepted for v in checker}
    judged = {(v.question_id, v.sample, v.question_fingerprint): v.accepted for v in person}
    both = [key for key in judged if key in checked]
    return [checked[key] for key in both], [judged[key] for key in both], [key[0] for key in both]


def agreement_lines(found: Agreement) -> str:
    """Return what was found in a few lines."""
    return (
        f"{found.traces} traces: {found.both_accept} accepted by both, {found.only_checker} by the checker alone, "
        f"{found.only_person} by the person alone, {found.both_reject} rejected by both\n"
        f"agreement      {found.share:.3f} [{found.share_interval[0]:.3f}, {found.share_interval[1]:.3f}]\n"
        f"Cohen's kappa  {found.kappa:.3f} [{found.kappa_interval[0]:.3f}, {found.kappa_interval[1]:.3f}]"
    )
