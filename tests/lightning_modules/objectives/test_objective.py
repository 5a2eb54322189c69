"""Each variant of the objective against numbers worked out by hand and against its equation written out in loops."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules import objectives
from lightning_modules.objectives.averages import Counts
from lightning_modules.objectives.objective import Objective, Policies
from runtime.errors import UserError

o: Any = objectives
SHAPE = (4, 3, 6)

# a question with two responses of two tokens and one, epsilon 0.2 unless said: ratios 1.5 and 0.5; 0.5
OLD = torch.tensor([[[0.4, 0.4], [0.4, 0.4]]]).log()
NEW = torch.tensor([[[0.6, 0.2], [0.2, 0.7]]]).log()
MASK = torch.tensor([[[True, True], [True, False]]])
GOOD_BAD = torch.tensor([[1.0, -2.0]])


def loss(objective: Objective, advantages: Tensor = GOOD_BAD, **more: Any) -> float:
    return objective.terms(Policies(NEW, OLD, **more), advantages, MASK, 0.1, Counts(2, 3.0)).loss.item()


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # tokens gain min(1.5, 1.2) = 1.2, 0.5 and min(-1, -1.6) = -1.6
        (Objective(), -((1.2 + 0.5) / 2 - 1.6) / 2),
        (Objective(average=o.TokenMean()), -(1.2 + 0.5 - 1.6) / 3),
        (Objective(average=o.GroupTokenMean()), -(1.2 + 0.5 - 1.6) / 3),
        (Objective(average=o.ConstantLength(8)), -(1.2 + 0.5 - 1.6) / (2 * 8)),
        # the first token is followed to 1.28
        (Objective(policy=o.ClippedRatio(0.2, 0.28)), -((1.28 + 0.5) / 2 - 1.6) / 2),
        # s = sqrt(1.5 * 0.5) = sqrt(0.75) = 0.866, below 0.9, with a gain that the lower bound does not hold back;
        # the other: s = 0.5, held at 0.9
        (Objective(policy=o.GSPO(0.1, 0.1)), -(math.sqrt(0.75) - 2 * 0.9) / 2),
        # weights min(1.5, 1.4), 0.5 and 0.5
        (
            Objective(policy=o.CISPO(is_high=0.4)),
            -((1.4 * math.log(0.6) + 0.5 * math.log(0.2)) / 2 - 2 * 0.5 * math.log(0.2)) / 2,
        ),
        # gates 4 sigmoid(0.5), 4 sigmoid(-0.5) and 2 sigmoid(-1), as tau is 2 for what is to become less likely
        (
            Objective(policy=o.SAPO(1.0, 2.0)),
            -((4 / (1 + math.exp(-0.5)) + 4 / (1 + math.exp(0.5))) / 2 - 2 * 2 / (1 + math.e)) / 2,
        ),
    ],
    ids=repr,
)
def test_policy_terms_and_averages_by_hand(objective: Objective, expected: float) -> None:
    assert loss(objective) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("kl", "first", "second"),
    [
        # the reference is half as likely as the policy at the first token, twice at the only one of the second response
        (o.K1(), math.log(2), -math.log(2)),
        (o.K2(), math.log(2) ** 2 / 2, math.log(2) ** 2 / 2),
        (o.K3(), 0.5 + math.log(2) - 1, 2 - math.log(2) - 1),
    ],
    ids=repr,
)
def test_kl_estimators_by_hand(kl: Any, first: float, second: float) -> None:
    reference = torch.tensor([[[0.3, 0.2], [0.4, 0.1]]]).log()
    plain = -((1.2 + 0.5) / 2 - 1.6) / 2
    found = Objective(kl=kl).terms(Policies(NEW, OLD, reference), GOOD_BAD, MASK, 0.1)
    assert found.loss.item() == pytest.approx(plain + 0.1 * (first / 2 + second) / 2, abs=1e-6)
    assert found.kl.item() == pytest.approx((first / 2 + second) / 2, abs=1e-6)
    in_reward = Objective(kl=type(kl)(in_reward=True)).terms(Policies(NEW, OLD, reference), GOOD_BAD, MASK, 0.1)
    assert in_reward.loss.item() == pytest.approx(plain, abs=1e-6)  # it is in the advantages
    assert in_reward.kl.item() == pytest.approx(found.kl.item(), abs=1e-6)


def test_entropy_bonus_by_hand() -> None:
    entropy = torch.tensor([[[1.0, 3.0], [4.0, 0.0]]])  # means of responses 2 and 4
    assert loss(Objective(entropy=0.5), entropy=entropy) == pytest.approx(loss(Objective()) - 0.5 * 3, abs=1e-6)
    assert loss(Objective(), entropy=entropy) == loss(Objective())


@pytest.mark.parametrize(
    ("importance", "weights", "share"),
    [
        # ratios 3 and 1/2 of the first response, product 3/2; 1/4 of the second
        (o.TokenTruncation(2.0), [[2.0, 0.5], [0.25, 1.0]], 1 / 3),
        (o.TokenMask(0.3, 2.0), [[0.0, 0.5], [0.0, 1.0]], 2 / 3),
        (o.SequenceTruncation(1.25), [[1.25, 1.25], [0.25, 1.0]], 1 / 2),
        (o.SequenceMask(0.3, 2.0), [[1.5, 1.5], [0.0, 1.0]], 1 / 2),
    ],
    ids=repr,
)
def test_importance_by_hand(importance: Any, weights: list[list[float]], share: float) -> None:
    old = torch.tensor([[[0.6, 0.2], [0.1, 0.9]]]).log()
    behaviour = torch.tensor([[[0.2, 0.4], [0.4, 0.01]]]).log()
    found, held = importance(old, behaviour, MASK)
    torch.testing.assert_close(found, torch.tensor([weights]), atol=1e-6, rtol=0)
    assert held.item() == pytest.approx(share, abs=1e-6)


def min_clip(low: float, high: float) -> Callable[..., Tensor]:
    def gain(ratio: Tensor, advantage: Tensor, _: Tensor) -> Tensor:
        return torch.min(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)

    return gain


def cispo(ratio: Tensor, advantage: Tensor, logprob: Tensor) -> Tensor:
    return min(ratio.item(), 1.4) * advantage * logprob


def sapo(ratio: Tensor, advantage: Tensor, _: Tensor) -> Tensor:
    tau = 1.0 if advantage > 0 else 1.05
    return 4 / tau / (1 + torch.exp(-tau * (ratio - 1))) * advantage


# policy term, its equation by ratio, advantage and log-probability, and whether the ratio is of the sequence
TERMS = {
    "GRPO": (o.ClippedRatio(), min_clip(0.2, 0.2), False),
    "clip-higher": (o.ClippedRatio(0.2, 0.28), min_clip(0.2, 0.28), False),
    "GSPO": (o.GSPO(0.03, 0.04), min_clip(0.03, 0.04), True),
    "CISPO": (o.CISPO(is_high=0.4), cispo, False),
    "SAPO": (o.SAPO(), sapo, False),
}
# average, and the divisor of a token's value by the lengths [B][G], its question and its response
AVERAGES: dict[str, tuple[Any, Callable[[list[list[int]], int, int], float]]] = {
    "responses": (o.ResponseMean(), lambda n, q, i: len(n) * len(n[q]) * n[q][i]),
    "tokens": (o.TokenMean(), lambda n, q, i: sum(map(sum, n))),
    "tokens of a group": (o.GroupTokenMean(), lambda n, q, i: len(n) * sum(n[q])),
    "constant": (o.ConstantLength(7), lambda n, q, i: len(n) * len(n[q]) * 7),
}
KLS = {
    "K1": (o.K1(), lambda new, reference: new - reference),
    "K2": (o.K2(), lambda new, reference: (new - reference) ** 2 / 2),
    "K3": (o.K3(), lambda new, reference: torch.exp(reference - new) - (reference - new) - 1),
}
CASES = [(term, average, "K3") for term in TERMS for average in AVERAGES] + [("GRPO", "tokens", kl) for kl in KLS]


class Data:
    """Random log-probabilities, lengths and advantages of responses or, where asked, of tokens."""

    def __init__(self, seed: int, of_tokens: bool) -> None:
        generator = torch.Generator().manual_seed(seed)

        def around(scale: float) -> Tensor:
            return scale * torch.randn(SHAPE, generator=generator, dtype=torch.float64)

        self.new = (-3 * torch.rand(SHAPE, generator=generator, dtype=torch.float64)).requires_grad_()
        self.old, self.reference = self.new.detach() + around(0.3), self.new.detach() + around(0.5)
        self.entropy = around(1.0).abs()
        self.lengths = torch.randint(1, 7, SHAPE[:2], generator=generator)
        self.mask = torch.arange(SHAPE[2]) < self.lengths[..., None]
        self.weights = around(1.0).exp()
        self.advantages = around(1.0) if of_tokens else around(1.0)[..., 0]

    def terms(self, objective: Objective, rows: slice, counts: Counts) -> Tensor:
        policies = Policies(self.new[rows], self.old[rows], self.reference[rows], self.entropy[rows])
        return objective.terms(
            policies, self.advantages[rows], self.mask[rows], 0.3, counts, self.weights[rows]
        ).loss  # fmt: skip


@pytest.mark.parametrize("of_tokens", [False, True], ids=["[B, G]", "[B, G, C]"])
@pytest.mark.parametrize(("term", "average", "kl"), CASES, ids=["-".join(case) for case in CASES])
def test_gradients_are_those_of_the_equation_however_the_batch_is_split(term, average, kl, of_tokens) -> None:
    data = Data(len(term) + len(average), of_tokens)
    policy, gain, of_sequence = TERMS[term]
    averaged, divisor = AVERAGES[average]
    estimator, estimate = KLS[kl]
    lengths = data.lengths.tolist()
    expected = torch.zeros((), dtype=torch.float64)
    for q, i in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
        ratios = [torch.exp(data.new[q, i, t] - data.old[q, i, t]) for t in range(lengths[q][i])]
        whole = torch.stack(ratios).prod() ** (1 / lengths[q][i])
        for t, ratio in enumerate(ratios):
            new = data.new[q, i, t]
            if of_sequence:  # Eq. 13 of GSPO; Eq. 5 has a test of its own
                ratio = whole.detach() * torch.exp(new - new.detach())
            value = gain(ratio, data.advantages[q, i, t] if of_tokens else data.advantages[q, i], new)
            value = data.weights[q, i, t] * value - 0.3 * estimate(new, data.reference[q, i, t])
            expected = expected - (value + 0.2 * data.entropy[q, i, t]) / divisor(lengths, q, i)
    (slope,) = torch.autograd.grad(expected, data.new)

    objective = Objective(policy=policy, average=averaged, kl=estimator, entropy=0.2)
    responses, tokens = SHAPE[0] * SHAPE[1], int(data.lengths.sum())
    # one rank; micro-batches of 1 and 3; two ranks, of 1 and 1 and of 2, whose gradients are averaged
    for ranks in ([[slice(0, 4)]], [[slice(0, 1), slice(1, 4)]], [[slice(0, 1), slice(1, 2)], [slice(2, 4)]]):
        counts = Counts(responses // len(ranks), tokens / len(ranks))
        found = sum(data.terms(objective, rows, counts) for rank in ranks for rows in rank) / len(ranks)
        (gradient,) = torch.autograd.grad(found, data.new)
        assert found.item() == pytest.approx(expected.item(), abs=1e-9)
        torch.testing.assert_close(gradient, slope, atol=1e-9, rtol=1e-9)
        assert gradient[~data.mask].abs().sum() == 0


def eq2_before(new, old, reference, advantages, mask, epsilon, beta, responses, importance):  # type: ignore[no-untyped-def]
    """Eq. 2 as one function, operation by operation as it was computed before its parts could be replaced."""
    ratio = (new - old).masked_fill(~mask, 0.0).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    gain = advantages[..., None]
    surrogate = torch.minimum(ratio * gain, clipped * gain)
    if importance is not None:
        surrogate = surrogate * importance
    difference = reference - new
    kl = (difference.exp() - difference - 1).masked_fill(~mask, 0.0)
    per_response = ((surrogate - beta * kl) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return -per_response.sum() / responses


@pytest.mark.parametrize("weighted", [False, True])
def test_the_default_is_eq_2_to_the_last_digit(weighted: bool) -> None:
    data = Data(3, of_tokens=False)
    new, old, reference = (x.detach().float().requires_grad_() for x in (data.new, data.old, data.reference))
    advantages, importance = data.advantages.float(), data.weights.float() if weighted else None
    before = eq2_before(new, old, reference, advantages, data.mask, 0.2, 0.04, 24, importance)
    now = Objective().terms(Policies(new, old, reference), advantages, data.mask, 0.04, Counts(24), importance).loss
    assert now.item() == before.item()
    assert torch.equal(*(torch.autograd.grad(value, new)[0] for value in (now, before)))


def test_gspo_in_the_form_for_tokens_is_gspo() -> None:
    """Eq. 5 of the paper: the ratio of the sequence by itself, without a token's own."""
    data = Data(1, of_tokens=False)
    ratio = (((data.new - data.old) * data.mask).sum(-1) / data.lengths).exp()
    gain = torch.min(ratio * data.advantages, ratio.clamp(1 - 0.03, 1 + 0.04) * data.advantages)
    (slope,) = torch.autograd.grad(-gain.mean(), data.new)
    terms = Objective(policy=o.GSPO(0.03, 0.04)).terms(Policies(data.new, data.old), data.advantages, data.mask, 0.0)
    torch.testing.assert_close(torch.autograd.grad(terms.loss, data.new)[0], slope)
    clipped = (ratio > 1.04) & (data.advantages > 0) | (ratio < 0.97) & (data.advantages < 0)
    assert terms.clip_ratio.item() == pytest.approx((data.lengths[clipped].sum() / data.lengths.sum()).item(), abs=1e-6)


def test_padding_and_empty_responses_poison_nothing() -> None:
    new = torch.zeros(1, 2, 2, requires_grad=True)
    old = torch.tensor([[[0.0, -1e4], [-1e4, -1e4]]])
    mask = torch.tensor([[[True, False], [False, False]]])
    for term, average in itertools.product(TERMS, AVERAGES):
        objective = Objective(policy=TERMS[term][0], average=AVERAGES[average][0])
        found = objective.terms(Policies(new, old, old), torch.ones(1, 2), mask, 0.1).loss
        (gradient,) = torch.autograd.grad(found, new)
        assert math.isfinite(found.item()) and torch.isfinite(gradient).all()
        assert gradient[~mask].abs().sum() == 0 and gradient[0, 0, 0] != 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: o.ClippedRatio(-0.1), "epsilon is -0.1"),
        (lambda: o.GSPO(right=-1.0), "right is -1.0"),
        (lambda: o.SAPO(tau_neg=0.0), "tau_neg 0.0 must both be above 0"),
        (lambda: o.ConstantLength(0), "length is 0: at least 1"),
        (lambda: o.TokenTruncation(0.5), "cap is 0.5: below 1"),
        (lambda: o.SequenceMask(1.5, 2.0), "low 1.5 and high 2.0 must have 1 between them"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_what_has_one_name_in_two_parts_has_one_default() -> None:
    """A configuration that chooses another class keeps what the first one was given, where the other knows the name."""
    known = [getattr(objectives, name) for name in dir(objectives) if name != "Objective"]
    for first, second in itertools.combinations(known, 2):
        if first.__mro__[1] is second.__mro__[1] is not object:
            shared = vars(first).keys() & vars(second).keys() & getattr(first, "__annotations__", {}).keys()
            for name in shared - {"metric", "of_all_tokens"}:
                assert vars(first)[name] == vars(second)[name], (first, second, name)
