import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batching.batch import AudioQABatch, Completions
from evaluation.checked import check_predictions
from lightning_modules.objectives.batch_reward import BatchReward
from lightning_modules.objectives.length_rewards import LengthReward, OverlongPenalty, RepetitionPenalty
from lightning_modules.objectives.reward_checks import RewardError, usable
from lightning_modules.objectives.rewards import AccuracyReward, FormatReward, compute_rewards
from lightning_modules.qa_evaluation import QAEvaluation
from records.records import Question
from runtime.errors import UserError

QUESTION = Question("q/1", "avqa", "a.mp4", "What is heard?", ("dog", "cat", "rain"), 0, "Which")


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<think>I hear barking.</think><answer>dog</answer>", 1.0),
        ("<think>I hear barking.</think>\n<answer>(A) dog</answer>\n", 1.0),
        ("<think>two\nlines</think><answer>dog</answer>", 1.0),
        ("<think></think><answer>dog</answer>", 0.0),
        ("<think>  </think><answer>dog</answer>", 0.0),
        ("<think>x</think><answer> </answer>", 0.0),
        ("<answer>dog</answer>", 0.0),
        ("<think>x</think>dog", 0.0),
        ("Sure! <think>x</think><answer>dog</answer>", 0.0),
        ("<think>x</think><answer>dog</answer> and more", 0.0),
        ("<think>a<think>b</think><answer>dog</answer>", 0.0),
        ("<think>x</think><answer>dog", 0.0),
        # a tag twice is no format
        ("<think>x</think></think><answer>dog</answer>", 0.0),
        ("<think>x</think>y</think><answer>dog</answer>", 0.0),
        ("<think>x</think><answer>dog</answer></answer>", 0.0),
        ("<think>x</think><answer>cat</answer><answer>dog</answer>", 0.0),
        ("<think>I write <answer> later</think><answer>dog</answer>", 0.0),
        ("<think>x</answer></think><answer>dog</answer>", 0.0),
        ("<think>x<THINK>y</think><answer>dog</answer>", 0.0),
        ("<think>x</think><answer>dog< /answer></answer>", 0.0),
        ("<think>a < b and b > a</think><answer>dog</answer>", 1.0),
        ("", 0.0),
    ],
)
def test_format(completion: str, reward: float) -> None:
    assert FormatReward()(completion, QUESTION, None) == reward


@pytest.mark.parametrize(
    ("completion", "label", "reward"),
    [
        ("<answer>dog</answer>", "dog", 1.0),
        ("<answer>A</answer>", "dog", 1.0),
        ("<answer>dog</answer>", "cat", 0.0),  # the label is the teacher's, not the ground truth
        ("<answer>cat</answer>", "cat", 1.0),
        ("", "dog", 0.0),
        ("<answer>dog</answer>", None, 0.0),
        ("<answer>dog</answer>", "whale", 0.0),
        ("<think>First I hear a dog", "dog", 0.0),  # cut in its thoughts
        ("<think>dog</think>", "dog", 0.0),
        ("<answer>a dog", "dog", 1.0),  # ended without closing the tag
    ],
)
def test_accuracy_rewards_the_label(completion: str, label: str | None, reward: float) -> None:
    assert AccuracyReward()(completion, QUESTION, label) == reward


@pytest.mark.parametrize(("said", "reward"), [("(B)", 1.0), ("(A)", 0.0), ("C#", 1.0), ("C", 0.0), ("(C)", 0.0)])
def test_the_label_is_the_option_with_its_text(said: str, reward: float) -> None:
    """ "C#" is the second option, not the C that a reader might see in it; "A" is the fourth, not the first."""
    chords = dataclasses.replace(QUESTION, options=("C", "C#", "D", "A"))
    assert AccuracyReward()(f"<think>x</think><answer>{said}</answer>", chords, "C#") == reward
    assert AccuracyReward()("<answer>(D)</answer>", chords, "A") == 1.0
    assert AccuracyReward()("<answer>(A)</answer>", chords, "A") == 0.0


@pytest.mark.parametrize("option", range(5))
def test_any_option_is_rewarded_and_no_other(option: int) -> None:
    options = ("not a dog", "dog", "A minor", "more than ten", "yes")
    question = dataclasses.replace(QUESTION, options=options)
    rewards = [AccuracyReward()(f"<answer>{said}</answer>", question, options[option]) for said in options]
    assert rewards == [float(index == option) for index in range(5)]


CUT = [
    ("<think>x</think><answer>dog</answer>", 1.0),
    ("<think>x</think><answer>dog</answer> more", 1.0),
    ("<think>x</think><answer>dog", 0.0),
    ("<think>a dog", 0.0),
    ("First I hear a dog", 0.0),
    ("The answer is (A). And", 0.0),
]


def test_what_was_cut_before_its_answer_earns_nothing() -> None:
    completed = batch([[text for text, _ in CUT]], ["dog"])
    assert completed.completions is not None
    completed.completions.finished[:] = False
    assert compute_rewards(completed, [AccuracyReward()])["accuracy"].tolist() == [[reward for _, reward in CUT]]


def test_the_reward_is_the_tables_score() -> None:
    """The same completions, with and without their end: reward, validation and table agree."""
    question = dataclasses.replace(QUESTION, id="q/0")
    for finished in (True, False):
        for text in [text for text, _ in CUT] + [
            "dog",
            "(A)",
            "cat",
            "",
            "<think>dog</think> the dog",
            "{'answer': 'A'}",
        ]:
            reward = AccuracyReward()(text, question, "dog", finished)
            prediction = QAEvaluation().read_answer(question, text, finished, model="")
            checked = check_predictions([prediction], [question])
            assert reward == float(prediction.correct or False) == float(checked.answers[0].right), text
            assert "read differently" not in checked.counts()


def test_a_function_that_wants_to_know_the_end_is_told() -> None:
    class Ended:
        name = "ended"

        def __call__(self, completion: str, question: Question, label: str | None, finished: bool) -> float:
            return float(finished)

    completed = batch([["x", "y"]], ["dog"])
    assert completed.completions is not None
    completed.completions.finished[0, 1] = False
    assert compute_rewards(completed, [Ended()])["ended"].tolist() == [[1.0, 0.0]]


def batch(texts: list[list[str]], labels: list[str | None]) -> AudioQABatch:
    size, group = len(texts), len(texts[0])
    completions = Completions(
        ids=torch.zeros(size, group, 1, dtype=torch.long),
        mask=torch.ones(size, group, 1, dtype=torch.bool),
        texts=texts,
        finished=torch.ones(size, group, dtype=torch.bool),
    )
    zeros = torch.zeros(size, 1, dtype=torch.long)
    return AudioQABatch([QUESTION] * size, [], [], zeros, zeros[:, 0], zeros, zeros[:, 0], labels, completions)


def test_grade_gives_each_part_for_each_completion() -> None:
    parts = compute_rewards(
        batch(
            [
                ["<think>x</think><answer>dog</answer>", "dog"],
                ["<think>x</think><answer>cat</answer>", "rubbish"],
            ],
            ["dog", "dog"],
        ),
        [AccuracyReward(), FormatReward()],
    )
    assert parts["accuracy"].tolist() == [[1, 1], [0, 0]]
    assert parts["format"].tolist() == [[1, 0], [1, 0]]


def test_two_functions_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        compute_rewards(batch([["x"]], [None]), [FormatReward(), FormatReward()])


def test_the_overlong_penalty_is_a_line_over_the_last_tokens() -> None:
    # DAPO, Eq. 13, with 16 tokens at most and a buffer of 4: 0 up to 12, -1/4 a token, -1 from 16 on
    penalty = OverlongPenalty(max_tokens=16, buffer=4)
    found = [penalty("x", QUESTION, None, tokens) for tokens in (1, 12, 13, 15, 16, 20)]
    assert found == [0, 0, -0.25, -0.75, -1, -1]
    with pytest.raises(UserError, match="buffer is 17 and max_tokens 16"):
        OverlongPenalty(16, 17)


def test_a_reward_is_told_what_it_has_parameters_for() -> None:
    def told(completion, question, label, tokens, finished):
        return tokens + 100 * finished

    told.name = "told"
    mask = torch.arange(4) < torch.tensor([[2, 4]])[..., None]
    done = Completions(torch.zeros(1, 2, 4, dtype=torch.long), mask, [["a", "b"]], torch.tensor([[True, False]]))
    batch = AudioQABatch([QUESTION], [], [], *[torch.zeros(1)] * 4, [None], done)
    found = compute_rewards(batch, [told, OverlongPenalty(4, 2)])
    assert found["told"].tolist() == [[102, 4]] and found["overlong"].tolist() == [[0, -1]]


class Loud:
    """A plain reward that is given the clip."""

    name = "loud"

    def __call__(self, completion: str, question: Question, label: str | None, waveform: np.ndarray) -> float:
        return float(waveform.max())


class Given(BatchReward):
    name = "given"

    def __init__(self, value: Any) -> None:
        self.value = value

    def grade(self, batch: AudioQABatch) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_a_reward_may_hear_the_clip() -> None:
    heard = batch([["x", "y"], ["x", "y"]], ["dog", "dog"])
    heard.waveforms = [np.array([0.25, 0.0], np.float32), np.array([0.5], np.float32)]
    assert compute_rewards(heard, usable([Loud()]))["loud"].tolist() == [[0.25, 0.25], [0.5, 0.5]]


def test_a_reward_of_the_whole_batch() -> None:
    rewards = compute_rewards(batch([["x", "y"]], ["dog"]), usable([Given(torch.tensor([[1, 2]]))]))
    assert rewards["given"].tolist() == [[1.0, 2.0]] and rewards["given"].dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, r"returned None for a batch of question q/1 and 1 others: it must return .* of shape \[2, 2\]"),
        ([[1.0, 2.0]] * 2, r"returned \[\[1.0.* it must return a tensor with a number for each completion"),
        (torch.zeros(2), r"returned a tensor of shape \[2\]"),
        (torch.zeros(2, 3), r"returned a tensor of shape \[2, 3\] and type torch.float32"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), "returned nan, .* on question q/1, 'third'"),
        (torch.tensor([[0.0, 1.0], [0.0, 1e30]]), r"returned 1e\+30, .* 'fourth'"),
        (
            ZeroDivisionError("division by zero"),
            "raised ZeroDivisionError: division by zero on a batch of",
        ),
    ],
)
def test_what_a_whole_batch_cannot_be_given_is_named(value: Any, said: str) -> None:
    with pytest.raises(RewardError, match=f"reward function 'given' {said}"):
        compute_rewards(batch([["first", "second"], ["third", "fourth"]], ["dog", "dog"]), [Given(value)])


def test_a_reward_that_float32_cannot_compute_with_is_named() -> None:
    """1e39 is a number, and infinite in float32: advantages would be NaN, and the gradient's norm with them."""
    function = usable([lambda completion, question, label: 1e39])[0]
    with pytest.raises(RewardError, match=r"returned 1e\+39, too large to compute with, on question q/1"):
        compute_rewards(batch([["x"]], ["dog"]), [function])


@pytest.mark.parametrize(
    ("completion", "penalty"),
    [
        ("a dog barks", 0.0),
        ("a dog", 0.0),  # no trigram at all
        ("", 0.0),
        ("a dog barks A dog barks a dog barks", -4 / 7),  # 7 trigrams, 3 of them distinct
        ("la la la la la", -2 / 3),
    ],
)
def test_repetition_by_hand(completion: str, penalty: float) -> None:
    assert RepetitionPenalty()(completion, QUESTION, None) == pytest.approx(penalty)
    assert RepetitionPenalty(most=0.5)(completion, QUESTION, None) == pytest.approx(penalty / 2)


def test_length_by_hand() -> None:
    """Lengths 10, 20, 30, 50 of which the second and the fourth are wrong: 0.5, 0.25 -> 0, 0, -0.5."""
    texts = [["<answer>dog</answer>", "<answer>cat</answer>", "<answer>dog</answer>", "<answer>cat</answer>"]] * 2
    graded = batch(texts, ["dog", "dog"])
    assert graded.completions is not None
    graded.completions.lengths = np.array([[10, 20, 30, 50], [7, 7, 7, 7]])
    assert compute_rewards(graded, [LengthReward()])["length"].tolist() == [[0.5, 0.0, 0.0, -0.5], [0.0] * 4]
