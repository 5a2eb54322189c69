"""What need not be asked again: it is on disk already, or was refused for good."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from records.records import Prediction

Place = tuple[str, int | None]
"""A question and which of its samples; None stands for the question as a whole."""


@dataclass(frozen=True)
class Completed:
    """What earlier runs have completed of a stage.

    The callback that reads it from the disk makes one and hands it to the module and to the DataModule.

    Attributes:
        places: What is complete.
        samples: How many results a question is to have; None where that depends on the question.
        predictions: Answers of earlier runs by their question, where the stage makes answers.
    """

    places: frozenset[Place] = frozenset()
    samples: int | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    @classmethod
    def answers(cls, predictions: Mapping[str, Prediction]) -> Self:
        """Return answers of earlier runs as what is complete.

        Args:
            predictions: The answers by their question.
        """
        return cls(frozenset((question_id, None) for question_id in predictions), None, predictions)

    def __contains__(self, place: Place) -> bool:
        """Return True for a sample, or a question as a whole, that is complete."""
        return place in self.places

    def remaining(self, question_id: str, samples: Iterable[int]) -> list[int]:
        """Return which of a question's samples are not complete, neither alone nor with the question as a whole."""
        if (question_id, None) in self.places:
            return []
        return [sample for sample in samples if (question_id, sample) not in self.places]

    def lacks(self, question_id: str) -> bool:
        """Return True when something of a question remains."""
        if self.samples is None:
            return (question_id, None) not in self.places
        return bool(self.remaining(question_id, range(self.samples)))
