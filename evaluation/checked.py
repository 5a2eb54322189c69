"""Predictions held against the benchmark's own annotations: whatever does not fit is named.

The benchmark's file decides what was asked and what is right; of a prediction only its completion and the options that
the model was shown are believed.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from answers.answers import match_option
from records.records import Prediction, Question

_CUT = "the completion was cut at the token limit; only an answer between <answer> and </answer> counts"

COUNTED_WRONG = "missing"
"""The kind of a problem of a question without prediction."""

NO_ANSWER = "no answer"
"""The kind of a problem of a question whose right answer the benchmark's file does not tell."""


@dataclass(frozen=True)
class Problem:
    """Something in a file of predictions that does not fit the benchmark.

    Attributes:
        kind: In a few words, the same for all problems of this kind.
        question_id: The question.
        sentence: What was found and what was done about it.
    """

    kind: str
    question_id: str
    sentence: str


@dataclass(frozen=True)
class Answer:
    """A question of the benchmark and how it was answered.

    Attributes:
        question: The question as the benchmark's file has it.
        prediction: What the model said; None where it was not asked.
        chosen: Text of the option that it chose; None when no option could be read.
        right: Whether that is the right one.
    """

    question: Question
    prediction: Prediction | None
    chosen: str | None
    right: bool

    @property
    def labelled(self) -> bool:
        """Whether the benchmark's file tells the right answer, so that this one can be scored."""
        return self.question.answer is not None


@dataclass(frozen=True)
class CheckedPredictions:
    """Answers in the order of the benchmark's file, and what was wrong with the predictions.

    Attributes:
        answers: One for each question that is scored.
        problems: All that was found.
    """

    answers: tuple[Answer, ...]
    problems: tuple[Problem, ...]

    def counts(self) -> dict[str, int]:
        """Return how many problems of each kind there are."""
        return dict(Counter(problem.kind for problem in self.problems))

    @property
    def unanswerable(self) -> int:
        """How many questions got a completion in which no option could be read."""
        return sum(answer.chosen is None and answer.prediction is not None for answer in self.answers)


def check_predictions(
    predictions: Iterable[Prediction],
    questions: Sequence[Question],
    fixed_options: bool = True,
    partial: bool = False,
) -> CheckedPredictions:
    """Hold predictions against the questions that were asked.

    A question without prediction counts as wrong, one whose right answer is not known is not scored. A prediction for
    an unknown question is left out. Of several predictions for a question the first counts. Completions are read anew;
    of one that was cut at the token limit only an answer inside a closed ``<answer>`` counts, as for the reward.

    Args:
        predictions: The predictions.
        questions: The questions that were asked.
        fixed_options: The benchmark's file lists the options, so that others are those of another version of it.
        partial: Score only the questions that have a prediction.
    """
    known = {question.id: question for question in questions}
    problems: list[Problem] = []
    first: dict[str, Prediction] = {}

    def note(kind: str, question_id: str, sentence: str) -> None:
        problems.append(Problem(kind, question_id, f"{question_id}: {sentence}"))

    for prediction in predictions:
        name = prediction.question_id
        if name not in known:
            note("unknown id", name, "the benchmark has no such question; left out")
        elif name not in first:
            first[name] = prediction
        elif prediction.completion == first[name].completion:
            note("doubled id", name, "answered twice in the same words; counted once")
        else:
            note("doubled id, other answer", name, "answered twice in different words; the first counts")

    answers = []
    for question in questions:
        if question.answer is None:
            note(NO_ANSWER, question.id, "the benchmark's file does not tell the right answer; not scored")
        prediction_ = first.get(question.id)
        if prediction_ is None:
            done = "not scored" if partial or question.answer is None else "counted as wrong"
            note(COUNTED_WRONG, question.id, f"there is no prediction; {done}")
            if not partial:
                answers.append(Answer(question, None, None, False))
            continue
        if not prediction_.completion.strip():
            note("empty completion", question.id, "the completion is empty; counted as wrong")
        if not prediction_.finished:
            note("cut completion", question.id, _CUT)
        choice = match_option(prediction_.completion, prediction_.options, prediction_.finished)
        chosen = None if choice is None else prediction_.options[choice]
        if choice != prediction_.choice:
            note("read differently", question.id, f"recorded as option {prediction_.choice}, now read as {choice}")
        if difference := _other_version(prediction_, question, fixed_options):
            note("other annotation", question.id, f"{difference}; scored by the file that is here")
        right = chosen is not None and question.answer_text is not None and _same(chosen, question.answer_text)
        answers.append(Answer(question, prediction_, chosen, right))
    return CheckedPredictions(tuple(answers), tuple(problems))


def _other_version(prediction: Prediction, question: Question, fixed_options: bool) -> str | None:
    """Return what the prediction's question had that the benchmark's file has not."""
    shown = {option.casefold() for option in prediction.options}
    if fixed_options and shown != {option.casefold() for option in question.options}:
        return f"the options were {list(prediction.options)} and are {list(question.options)}"
    as_shown = dataclasses.replace(question, options=prediction.options)
    if prediction.question_fingerprint not in ("", as_shown.fingerprint):
        return "the question asked something else"
    if prediction.answer is None or question.answer_text is None:
        return None
    if not 0 <= prediction.answer < len(prediction.options):
        return f"the right option was number {prediction.answer} of {len(prediction.options)}"
    was = prediction.options[prediction.answer]
    return None if _same(was, question.answer_text) else f"the right answer was {was!r} and is {question.answer_text!r}"


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()
