"""How much of a student's accuracy is due to what it hears."""

from collections import defaultdict
from collections.abc import Iterable, Mapping


def hearing_metrics(
    heard: Mapping[str, bool | None], probed: Iterable[tuple[str, str, bool | None]]
) -> dict[str, float]:
    """Return the accuracy with the sound, with each probe, and the gap between them, over the same questions.

    The gap is the accuracy with the sound less the highest accuracy with another one. Only questions count that have a
    label and were asked in all ways.

    Args:
        heard: Whether each question was answered right with its own sound, by its id; None where there is no label.
        probed: Question, probe, and whether it was answered right, once for each.

    Returns:
        ``hearing/heard``, ``hearing/<probe>``, ``hearing_gap`` and ``hearing_questions``; empty where no question was
        asked in all ways.
    """
    answers: dict[str, dict[str, bool]] = defaultdict(dict)
    for question, probe, correct in probed:
        if correct is not None:
            answers[probe][question] = correct
    shared = {question for question, correct in heard.items() if correct is not None}
    for given in answers.values():
        shared &= given.keys()
    if not answers or not shared:
        return {}
    accuracy = {probe: sum(given[q] for q in shared) / len(shared) for probe, given in sorted(answers.items())}
    whole = sum(bool(heard[question]) for question in shared) / len(shared)
    return {
        "hearing/heard": whole,
        **{f"hearing/{probe}": value for probe, value in accuracy.items()},
        "hearing_gap": whole - max(accuracy.values()),
        "hearing_questions": float(len(shared)),
    }
