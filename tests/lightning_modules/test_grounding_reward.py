"""The reward for traces that fit the sound: what it makes of judgements, and the two judges."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.stub_endpoint import Canned, StubEndpoint, text_of
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.heard_traces import LabelledTraces
from inference.chat_api.budget import BudgetSettings
from inference.chat_api.chat_endpoint import EndpointSettings
from inference.chat_api.retries import RetryPolicy
from lightning_modules import EndpointJudge, TrainedJudge
from lightning_modules.audio_text_verifier import AudioTextVerifier
from lightning_modules.grounding_reward import GroundingReward, Judge, Judgement
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.alignment_head import AlignmentHead
from lightning_modules.models.head_folder import save_head
from mini.world.endpoints import CHECKER, MiniEndpoints
from mini.world.sounds import synthesise
from records.records import Question, Trace
from runtime.errors import UserError
from tests.lightning_modules.test_training import fit, on_policy
from tests.support.students import clip, make_batch

SAID = "<think>I hear a {}.</think><answer>dog</answer>"


class Ruled(Judge):
    """Judges by a rule; ``deaf`` keeps it from noticing what is played."""

    def __init__(self, rule: Callable[[str], Judgement], deaf: bool = False) -> None:
        self.rule, self.deaf = rule, deaf

    def judge(self, items: Sequence[LabelledTraces]) -> list[list[Judgement]]:
        self.seen = items
        noisy = [not self.deaf and len(item.waveform) > 0 and item.waveform.std() < 0.2 for item in items]
        return [
            [(0.123,) if noise else self.rule(trace.reasoning) for trace in item.traces]
            for item, noise in zip(items, noisy, strict=True)
        ]


@pytest.fixture
def batch(processor) -> AudioQABatch:
    made = make_batch(processor, [1.0, 1.2], [[4, 7, 3, 6], [2, 5, 8, 1]])
    made.completions.texts = [
        [SAID.format("bell"), SAID.format("siren"), SAID.format("whale"), "<answer>dog</answer>"],
        [SAID.format("bell"), SAID.format("none"), "<think> </think><answer>dog</answer>", SAID.format("two")],
    ]
    return made


def ruled(thought: str) -> Judgement:
    return {"bell": (0.9,), "siren": (0.4,), "whale": None, "none": (), "two": (0.8, 0.3)}[thought[9:-1]]


def test_rewards_by_hand(batch: AudioQABatch) -> None:
    """A claim's mean, nothing for no thought or no claim, and for the unknown the mean of the question's others."""
    reward = GroundingReward(Ruled(ruled))
    expected = torch.tensor([[0.9, 0.4, (0.9 + 0.4 + 0.0) / 3, 0.0], [0.9, 0.0, 0.0, 0.55]])
    torch.testing.assert_close(reward.grade(batch), expected)
    metrics = dict(reward.metrics)
    assert metrics.pop("time/grounding") > 0
    assert metrics == {"train/grounding_unjudged": pytest.approx(1 / 6), "train/grounding_without_thought": 0.25}
    counted = GroundingReward(Ruled(ruled), threshold=0.5).grade(batch)
    torch.testing.assert_close(counted, torch.tensor([[1.0, 0.0, 1 / 3, 0.0], [1.0, 0.0, 0.0, 0.5]]))


def test_a_judge_that_says_nothing_or_hears_nothing_ends_the_run(batch: AudioQABatch) -> None:
    with pytest.raises(UserError, match=r"100% of the traces of a batch could not be judged \(question q/0"):
        GroundingReward(Ruled(lambda thought: None)).grade(batch)
    with pytest.raises(UserError, match="each probability stayed the same: the judge does not hear the clips"):
        GroundingReward(Ruled(ruled, deaf=True)).grade(batch)
    plain = GroundingReward(Ruled(lambda thought: (0.0,), deaf=True))  # a plain no may be right each time
    with pytest.warns(UserWarning, match="40 traces were judged the same with noise"):
        for _ in range(20):
            plain.grade(batch)
    assert GroundingReward(Ruled(lambda thought: None), max_unjudged=1.0).grade(batch).tolist() == [[0.0] * 4] * 2


# The trained verifier in the process


@pytest.fixture(scope="module")
def head(weights: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(3)
    width = AudioTextVerifier(weights).encoder.audio_width("both")
    made = AlignmentHead(width, AudioTextVerifier(weights).encoder.text_width, hidden=8)
    folder = tmp_path_factory.mktemp("head") / "head"
    save_head(folder, made, {})
    return str(folder)


def test_the_trained_judge_says_what_the_verifier_says(weights: str, head: str) -> None:
    items = [
        LabelledTraces(
            Question(f"q/{n}", "avqa", "a.wav", "What?", ("dog", "cat"), 0, "Which"),
            tuple(Trace(f"q/{n}", s, f"I hear {'a bell ' * (s + n)}.", "dog", "t") for s in range(3 - n)),
            (None,) * (3 - n),
            clip(0.5 + 0.4 * n, n),
        )
        for n in range(3)
    ]
    judge = TrainedJudge(weights, head, hears="both", clips_at_once=2)
    judge.prepare(torch.device("cpu"), 0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        judged = judge.judge(items)
    assert [len(row) for row in judged] == [3, 2, 1]
    verifier = AudioTextVerifier(weights, head, "both").eval()
    for item, row in zip(items, judged, strict=True):
        for trace, judgement in zip(item.traces, row, strict=True):
            alone = judge._collate([LabelledTraces(item.question, (trace,), (None,), item.waveform)])
            assert judgement == pytest.approx(verifier.head.probability(verifier.logits(alone)).tolist(), abs=1e-5)
    assert not any(p.requires_grad for p in judge._verifier.parameters())
    judge.close()


def test_the_verifier_is_no_part_of_the_policy(weights: str, head: str, batch: AudioQABatch, tmp_path: Path) -> None:
    judge = TrainedJudge(weights, head, hears="both")
    module = GRPOModule(weights, reward_functions=[GroundingReward(judge)])
    assert {name.partition(".")[0] for name, _ in module.named_parameters()} == {"student", "reference"}
    (row,) = fit(module, [on_policy(module, batch)], tmp_path)
    assert 0 < row["train/reward/grounding"] < 1 and row["train/grounding_without_thought"] == 0.25
    assert row["train/reward"] == pytest.approx(row["train/reward/grounding"])
    assert judge._verifier is None  # closed at the end
    with pytest.raises(UserError, match="no trained head in nowhere"):
        TrainedJudge(weights, "nowhere").prepare(torch.device("cpu"), 0, 1)


# A checker behind an endpoint


def judge_at(url: str, prepare: bool = True, model: str = "stub", **settings: Any) -> EndpointJudge:
    endpoint = EndpointSettings(url, model, retry=RetryPolicy(attempts=2, first_delay=0.01))
    judge = EndpointJudge(endpoint, **settings)
    if prepare:
        judge.prepare(torch.device("cpu"), 0, 1)
    return judge


def item(said: Sequence[str], waveform: np.ndarray, number: int = 0, answer: str | None = None) -> LabelledTraces:
    question = Question(f"q/{number}", "avqa", "a.wav", "Which sound is heard?", ("bell", "siren"), 0, "Which")
    traces = tuple(Trace(question.id, s, text, answer, "student") for s, text in enumerate(said))
    return LabelledTraces(question, traces, (None,) * len(traces), waveform)


@pytest.mark.parametrize("mode", ["trace", "claims"])
def test_a_checker_hears_which_trace_fits(mode: str) -> None:
    bell, siren = (0.5 * synthesise(n, 48_000, np.random.default_rng(0)).astype(np.float32) for n in ("bell", "siren"))
    said = ("I hear a bell.", "I hear a siren.", "I hear nothing at all.")
    with MiniEndpoints() as endpoints:
        judge = judge_at(endpoints.url, model=CHECKER, mode=mode)
        fits, fails = judge.judge([item(said, bell), item(said, siren, 1)])
        judge.close()
    assert fits[0][0] > 0.9 > 0.1 > fits[1][0] and fails[1][0] > fits[1][0]
    assert (fits[2] == ()) is (mode == "claims")


def yes_to_bells(body: dict[str, Any], index: int) -> str:
    return "yes" if "bell" in text_of(body) else "no"


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    one, other = clip(0.5, 0), clip(0.5, 1)
    with StubEndpoint(answer=yes_to_bells, keep=True) as stub:
        judge = judge_at(stub.url, cache_dir=str(tmp_path))
        assert judge.judge([item(["a bell", "rain", "a bell"], one)]) == [[(1.0,), (0.0,), (1.0,)]]
        assert len(stub.bodies) == 2 and judge.metrics["remembered"] == pytest.approx(1 / 3)
        assert judge.judge([item(["rain"], one)]) == [[(0.0,)]] and len(stub.bodies) == 2
        judge.judge([item(["rain"], other)])  # another clip is another matter
        assert len(stub.bodies) == 3 and "input_audio" in json.dumps(stub.bodies[-1])
        judge.close()
        resumed = judge_at(stub.url, cache_dir=str(tmp_path))
        assert resumed.judge([item(["a bell", "rain"], one)]) == [[(1.0,), (0.0,)]] and len(stub.bodies) == 3
        resumed.close()
        claims = judge_at(stub.url, cache_dir=str(tmp_path), mode="claims")  # another prompt, too
        claims.judge([item(["rain"], one)])
        assert len(stub.bodies) > 3
        claims.close()


def test_failures_are_counted_and_never_zero(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        return Canned(451, {"error": {"message": "no sirens here"}}) if "siren" in text_of(body) else None

    answers = {"bell": "yes", "maybe": "I cannot say"}
    with (
        StubEndpoint(
            rule=refuse, answer=lambda body, _: next(said for word, said in answers.items() if word in text_of(body))
        ) as stub,
        caplog.at_level("WARNING"),
    ):
        judge = judge_at(stub.url)
        assert judge.judge([item(["a bell ", "a siren", "maybe"], clip(0.5, 0))]) == [[(1.0,), None, None]]
        assert judge.metrics["failed"] == 2
        judge.close()
    assert "did not judge a trace of question q/0 (content filter" in caplog.text
    assert "neither yes nor no" in caplog.text


def test_a_spent_budget_and_a_dead_endpoint_end_the_run(tmp_path: Path) -> None:
    with StubEndpoint(answer=yes_to_bells) as stub:
        settings = {"budget": BudgetSettings(max_tokens=60), "cache_dir": str(tmp_path)}
        judge = judge_at(stub.url, **settings)
        with pytest.raises(UserError, match="the budget of EndpointJudge is spent"):
            for number in range(20):
                judge.judge([item([f"a bell {number}"], clip(0.5, 0))])
        judge.close()
        resumed = judge_at(stub.url, **settings)  # what was spent before counts
        with pytest.raises(UserError, match="the budget of EndpointJudge is spent"):
            resumed.judge([item(["rain"], clip(0.5, 0))])
        resumed.close()
    with pytest.raises(UserError, match="has answered nothing"):
        judge_at(stub.url).judge([item(["rain"], clip(0.5, 0))])
