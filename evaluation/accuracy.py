"""Accuracy of a run on a benchmark: overall, by category, by the official rule, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from answers.answers import answer_in_words
from evaluation.benchmarks import BENCHMARKS, asked, is_visual
from evaluation.checked import Answer, CheckedPredictions, check_predictions
from evaluation.intervals import RESAMPLES, Comparison, bootstrap, compare, interval
from evaluation.official_mmau import accepts
from evaluation.runs import PredictionFile, Run
from records.records import Question

AVERAGE = "average"
OFFICIAL = "official rule"
ALL_QUESTIONS = "all questions"


@dataclass(frozen=True)
class Score:
    """Right answers among questions.

    Attributes:
        right: How many are right.
        questions: How many are scored: those whose right answer is known.
        low: Lower end of the 95% interval of the accuracy.
        high: Upper end of the 95% interval of the accuracy.
        unknown: How many more there are, whose right answer is not known.
    """

    right: int
    questions: int
    low: float
    high: float
    unknown: int = 0

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.right / self.questions if self.questions else float("nan")


@dataclass(frozen=True)
class Orders:
    """The same questions with their options in several orders.

    Attributes:
        accuracies: Accuracy under each order.
        agreement: Share of the questions that were answered with the same option under all orders.
    """

    accuracies: tuple[float, ...]
    agreement: float

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(self.accuracies)) if self.accuracies else float("nan")

    @property
    def spread(self) -> float:
        """Sample standard deviation of the accuracies."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True)
class BenchmarkScore:
    """What a run reached on a benchmark.

    Attributes:
        benchmark: The benchmark's name.
        checked: The answers, and what was wrong with the predictions.
        scores: ``average``, each category, and what else the benchmark reports, by name.
        probes: With probed audio, by probe: the score, and what the probe cost on the same questions.
        orders: With shuffled options; None where there are no such files.
    """

    benchmark: str
    checked: CheckedPredictions
    scores: dict[str, Score]
    probes: dict[str, tuple[Score, Comparison]] = field(default_factory=dict)
    orders: Orders | None = None

    @property
    def average(self) -> Score:
        """The score that the paper's table calls the average."""
        return self.scores[AVERAGE]

    @property
    def categories(self) -> dict[str, Score]:
        """The categories' scores."""
        return {name: s for name, s in self.scores.items() if name not in (AVERAGE, OFFICIAL, ALL_QUESTIONS)}


def score_run(
    run: Run,
    questions: Mapping[str, Sequence[Question]],
    partial: bool = False,
    resamples: int = RESAMPLES,
) -> dict[str, BenchmarkScore]:
    """Score all files of a run.

    Args:
        run: The run.
        questions: The questions of each benchmark.
        partial: Score only the questions that have a prediction.
        resamples: Resamples of the bootstrap.

    Returns:
        Scores by benchmark, for those that the run answered as they are.
    """
    found = {}
    for name in BENCHMARKS:
        plain = run.plain(name)
        if plain is None:
            continue
        checked = check_file(plain, questions[name], partial)
        scores = score(name, checked, name == "mmau", resamples)
        probes = {}
        for probe, file in sorted(run.probes(name).items()):
            probed = check_file(file, questions[name], partial)
            probes[probe] = (
                score(name, probed, resamples=resamples)[AVERAGE],
                compare_answers(checked, probed, resamples),
            )
        shuffled = [check_file(file, questions[name], partial) for file in run.orders(name)]
        orders = order_robustness([checked, *shuffled]) if shuffled else None
        found[name] = BenchmarkScore(name, checked, scores, probes, orders)
    return found


def check_file(file: PredictionFile, questions: Sequence[Question], partial: bool = False) -> CheckedPredictions:
    """Hold a file of predictions against the questions that it was asked."""
    answered = {prediction.question_id for prediction in file.predictions}
    fixed = BENCHMARKS[file.benchmark].fixed_options
    return check_predictions(file.predictions, asked(questions, answered), fixed, partial)


def score(
    benchmark: str,
    checked: CheckedPredictions,
    official: bool = False,
    resamples: int = RESAMPLES,
) -> dict[str, Score]:
    """Score checked predictions.

    Args:
        benchmark: The benchmark's name.
        checked: The checked predictions.
        official: Score by MMAU's official rule as well.
        resamples: Resamples of the bootstrap.

    Returns:
        ``average``, the categories, and where the benchmark has them ``official rule`` and ``all questions``.
    """
    answers = checked.answers
    right = np.array([answer.right for answer in answers], dtype=bool)
    heard = np.array([not is_visual(answer.question) for answer in answers], dtype=bool)
    labelled = np.array([answer.labelled for answer in answers], dtype=bool)
    groups: dict[str, tuple[np.ndarray, np.ndarray]] = {AVERAGE: (right, heard)}
    of_category = np.array([answer.question.category for answer in answers], dtype=object)
    listed = BENCHMARKS[benchmark].categories
    for name in [*listed, *sorted(set(of_category[heard]) - set(listed))]:
        groups[name] = right, heard & (of_category == name)
    if not heard.all():
        groups[ALL_QUESTIONS] = right, np.ones_like(heard)
    if official:
        groups[OFFICIAL] = _each(answers, _official), heard
    means = bootstrap(
        np.stack([values for values, _ in groups.values()], axis=1).astype(float),
        np.stack([members & labelled for _, members in groups.values()], axis=1),
        [answer.question.media for answer in answers],
        resamples,
    )
    return {
        name: _scored(values[members & labelled], means[:, place], int((members & ~labelled).sum()))
        for place, (name, (values, members)) in enumerate(groups.items())
    }


def compare_answers(first: CheckedPredictions, second: CheckedPredictions, resamples: int = RESAMPLES) -> Comparison:
    """Compare two sets of answers on the questions that both have.

    The purely visual ones and those whose right answer is not known are left out.
    """
    others = {answer.question.id: answer for answer in second.answers}
    both = [
        (answer, others[answer.question.id])
        for answer in first.answers
        if answer.question.id in others and answer.labelled and not is_visual(answer.question)
    ]
    return compare(
        [a.right for a, _ in both], [b.right for _, b in both], [a.question.media for a, _ in both], resamples
    )


def order_robustness(orders: Sequence[CheckedPredictions]) -> Orders:
    """Return how much answers depend on the order of the options.

    Args:
        orders: Answers to the same questions, each under another order.
    """
    heard = [[answer for answer in checked.answers if not is_visual(answer.question)] for checked in orders]
    known = [[answer.right for answer in answers if answer.labelled] for answers in heard]
    accuracies = tuple(float(np.mean(right)) for right in known if right)
    chosen: dict[str, list[str | None]] = {}
    for answers in heard:
        for answer in answers:
            chosen.setdefault(answer.question.id, []).append(answer.chosen and answer.chosen.casefold())
    same = [None not in choices and len(set(choices)) == 1 for choices in chosen.values() if len(choices) > 1]
    return Orders(accuracies, float(np.mean(same)) if same else float("nan"))


def _scored(values: np.ndarray, means: np.ndarray, unknown: int) -> Score:
    right, questions = int(values.sum()), len(values)
    low, high = interval(means)
    if questions and low == high:  # all right or all wrong, where resampling knows no doubt
        low, high = stats.binomtest(right, questions).proportion_ci(method="exact")
    return Score(right, questions, float(low), float(high), unknown)


def _official(answer: Answer) -> bool:
    """Return whether MMAU's official rule accepts an answer."""
    if answer.prediction is None or answer.question.answer_text is None:
        return False
    said = answer_in_words(answer.prediction.completion, answer.prediction.options, answer.prediction.finished)
    return accepts(answer.question.answer_text, said, answer.question.options)


def _each(answers: Sequence[Answer], value: Callable[[Answer], bool]) -> np.ndarray:
    return np.array([value(answer) for answer in answers], dtype=bool)
