import pytest
import torch

from datamodules.batch import AudioQABatch, Completions
from datamodules.records import Question
from lightning_modules.rewards import AccuracyReward, FormatReward, grade

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
    ],
)
def test_accuracy_rewards_the_label(completion: str, label: str | None, reward: float) -> None:
    assert AccuracyReward()(completion, QUESTION, label) == reward


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
    parts = grade(
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
        grade(batch([["x"]], [None]), [FormatReward(), FormatReward()])
