"""The kinds of question that a corpus gets: AVQA's question types, and the skills that MMAU asks of sounds."""

from dataclasses import dataclass

from runtime.errors import UserError


@dataclass(frozen=True)
class QuestionKind:
    """A kind of question.

    Attributes:
        name: AVQA's ``question_type`` or MMAU's sub-category; accuracy is reported for it.
        asks: What such a question asks, as the writer is told it.
        relation: AVQA's ``question_relation``.
    """

    name: str
    asks: str
    relation: str = "Sound"


_KINDS = (
    # Yang et al., 2022: the question types of AVQA
    QuestionKind("Which", "which of several things is heard"),
    QuestionKind("Come From", "what a sound comes from", "Both"),
    QuestionKind("Happening", "what is happening, as its sounds tell", "Both"),
    QuestionKind("Why", "why a sound is made"),
    QuestionKind("Before Next", "what is heard before or after something else, or first or last"),
    QuestionKind("When", "when, or at which moment of an action, a sound is heard"),
    QuestionKind("Used For", "what the thing that is heard is used for", "Both"),
    # Sakshi et al., 2024: the skills that MMAU tests with sounds
    QuestionKind("Acoustic Source Inference", "which source makes a sound"),
    QuestionKind("Sound-Based Event Recognition", "which event the sounds belong to"),
    QuestionKind("Ambient Sound Interpretation", "what the sounds of the background are"),
    QuestionKind("Eco-Acoustic Knowledge", "which weather, animal or landscape the sounds belong to"),
    QuestionKind("Acoustic Scene Reasoning", "at which kind of place the sounds are heard"),
    QuestionKind("Event-Based Sound Reasoning", "how many sounds are heard, or which sound follows from an event"),
    QuestionKind("Temporal Event Reasoning", "in which order sounds are heard, or how often or how long"),
)

QUESTION_KINDS: dict[str, QuestionKind] = {kind.name: kind for kind in _KINDS}
"""All kinds by their names."""


def chosen_kinds(names: list[str] | None) -> tuple[QuestionKind, ...]:
    """Return kinds by their names, all where none is named.

    Args:
        names: Their names.

    Raises:
        UserError: There is no such kind, or none was chosen.
    """
    wanted = list(QUESTION_KINDS) if names is None else names
    if unknown := [name for name in wanted if name not in QUESTION_KINDS]:
        raise UserError(f"model.kinds has {unknown[0]!r}; there are {', '.join(QUESTION_KINDS)}")
    if not wanted:
        raise UserError("model.kinds is empty: name one kind of question at least, or leave it out for all")
    return tuple(QUESTION_KINDS[name] for name in dict.fromkeys(wanted))
