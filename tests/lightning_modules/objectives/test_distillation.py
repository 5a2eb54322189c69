"""The teacher's term, by hand; and that it makes a student its teacher, where the distance is known exactly."""

import math

import pytest
import torch
from torch import Tensor

from datamodules.media.probes import derangement
from lightning_modules.objectives.distillation import decayed, teacher_term
from lightning_modules.objectives.objective import Objective, Policies

NAN = math.nan


def alone(value: Tensor) -> Tensor:
    """The mean over one rank."""
    return value


def test_two_completions_by_hand() -> None:
    # d = teacher - old: -1 - (-2) = 1, -9 - (-1) = -8, and -2 - (-3) = 1; their mean is -2
    teacher = torch.tensor([[[-1.0, -9.0], [-2.0, NAN]]])
    old = torch.tensor([[[-2.0, -1.0], [-3.0, -4.0]]])
    term = teacher_term(teacher, old, None, 5.0, alone)
    # d - mean is 3, -6 and 3, of which the second is clipped; the fourth token was not scored
    assert torch.equal(term.advantages, torch.tensor([[[3.0, -5.0], [3.0, 0.0]]]))
    assert (float(term.kl), float(term.clipped), float(term.tokens)) == (2.0, pytest.approx(1 / 3), 3.0)


def test_frames_against_no_frames() -> None:
    # what the frames add is 2, 0 and -2, whatever the student thinks; the distance to it is still told
    teacher, blind = torch.tensor([[[-1.0, -2.0, -3.0]]]), torch.tensor([[[-3.0, -2.0, -1.0]]])
    term = teacher_term(teacher, torch.tensor([[[-1.0, -1.0, -1.0]]]), blind, 5.0, alone)
    assert torch.equal(term.advantages, torch.tensor([[[2.0, 0.0, -2.0]]]))
    assert float(term.kl) == 1.0


def test_a_teacher_who_says_nothing_adds_nothing() -> None:
    term = teacher_term(torch.full((1, 2, 2), NAN), torch.zeros(1, 2, 2), None, 5.0, alone)
    assert not term.advantages.any() and float(term.kl) == float(term.clipped) == float(term.tokens) == 0


def test_the_mean_is_that_of_all_ranks() -> None:
    teacher, old = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    teacher[0, 0] = NAN
    whole = teacher_term(teacher, old, None, 1.0, alone)
    gap = (teacher - old)[..., :]
    sums = [torch.stack([part.nansum(), part.nansum(), (~part.isnan()).sum()]) for part in (gap[:1], gap[1:])]
    mean = (sums[0] + sums[1]) / 2
    parts = [teacher_term(teacher[s], old[s], None, 1.0, lambda _: mean) for s in (slice(1), slice(1, 4))]
    assert torch.allclose(torch.cat([part.advantages for part in parts]), whole.advantages)
    assert float(parts[0].kl) == pytest.approx(float(whole.kl)) == pytest.approx(float(parts[1].kl))


def test_the_weight_falls_in_a_line() -> None:
    assert [decayed(2.0, step, 4) for step in (0, 1, 3, 4, 9)] == [2.0, 1.5, 0.5, 0.0, 0.0]
    assert decayed(2.0, 10**6, None) == 2.0


CLIPS, WORDS, LENGTH, GROUP = 6, 12, 16, 8


def chains(seed: int) -> Tensor:
    """What a model says of each clip after each word: logits ``[clip, word before, word]``."""
    drawn = torch.Generator().manual_seed(seed)
    common = torch.randn(WORDS, WORDS, generator=drawn)
    return common + 2.5 * torch.randn(CLIPS, WORDS, WORDS, generator=drawn)


def distance(student: Tensor, teacher: Tensor) -> float:
    """KL(student || teacher) for a word, exactly: over all sequences, by the chance of each word to stand before."""
    own, other = student.log_softmax(-1), teacher.log_softmax(-1)
    at = torch.zeros(CLIPS, WORDS)
    at[:, 0] = 1.0
    total = 0.0
    for _ in range(LENGTH):
        total += float((at * (own.exp() * (own - other)).sum(-1)).sum())
        at = torch.einsum("cw,cwv->cv", at, own.exp())
    return total / (CLIPS * LENGTH)


def sampled(student: Tensor, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words before and words ``[clip, group, length]`` of completions."""
    words = torch.zeros(CLIPS, GROUP, LENGTH + 1, dtype=torch.long)
    for place in range(LENGTH):
        chance = student.softmax(-1)[torch.arange(CLIPS)[:, None], words[..., place]]
        words[..., place + 1] = torch.multinomial(chance.flatten(0, 1), 1, generator=drawn).view(CLIPS, GROUP)
    return words[..., :-1], words[..., 1:]


def scores(model: Tensor, before: Tensor, words: Tensor) -> Tensor:
    return model.log_softmax(-1)[torch.arange(CLIPS)[:, None, None], before, words]


def distilled(seen: list[int], seed: int) -> tuple[float, float]:
    """Distances before and after 30 steps with the teacher's term alone, when it is shown the frames of ``seen``."""
    teacher = chains(seed)
    student = torch.nn.Parameter(chains(seed + 1))
    optimizer, drawn = torch.optim.AdamW([student], lr=0.15), torch.Generator().manual_seed(seed)
    begin = distance(student.detach(), teacher)
    for _ in range(30):
        before, words = sampled(student.detach(), drawn)
        logprobs = scores(student, before, words)
        term = teacher_term(scores(teacher[seen], before, words), logprobs.detach(), None, 5.0, alone)
        nothing = torch.zeros(CLIPS, GROUP)  # no task reward
        mask = torch.ones_like(words, dtype=torch.bool)
        policies = Policies(logprobs, logprobs.detach())
        optimizer.zero_grad()
        Objective().terms(policies, nothing[..., None] + term.advantages, mask, beta=0.0).loss.backward()
        optimizer.step()
    return begin, distance(student.detach(), teacher)


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_a_student_becomes_its_teacher_and_not_with_the_frames_of_another_clip(seed: int) -> None:
    begin, right = distilled(list(range(CLIPS)), seed)
    others = derangement(map(str, range(CLIPS)))
    _, wrong = distilled([int(others[str(clip)]) for clip in range(CLIPS)], seed)
    print(f"KL {begin:.2f}: {right:.2f} with the clip's frames, {wrong:.2f} with another's")
    assert right <= 0.4 * begin
    assert wrong > 1.5 * right
