"""Whoever hears the clip agrees with the answer."""

from collections.abc import Sequence

from records.records import Verdict


def not_heard(verdicts: Sequence[Verdict]) -> str:
    """Return why an answer is not grounded in the sound, or nothing where it is.

    Args:
        verdicts: The checker's verdicts on the answer (mode ``answer`` of ``FactVerifierModule``).
    """
    refused = next((verdict for verdict in verdicts if not verdict.accepted), None)
    if refused is None:
        return ""
    chance = "" if refused.probability is None else f" ({refused.probability:.3f})"
    return f"the checker does not hear the answer alone{chance}: {'; '.join(refused.evidence)}"
