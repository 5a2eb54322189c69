"""What a stage does when an endpoint gives no trace or verdict, and what the next run asks again."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stub_endpoint import Canned, StubEndpoint, text_of
from records.records import Trace, Verdict, write_jsonl
from records.request_records import RequestError, Usage
from tests.support.stages import OPTIONS, Stage, records, write_video

ONE_BY_ONE = ["--model.init_args.n_in_one_request=false", "--model.init_args.endpoint.in_flight=1"]


def error(status: int, message: str = "no", code: str | None = None) -> Canned:
    return Canned(status, {"error": {"message": message, "code": code}})


def reply(*messages: dict[str, Any], finish: str = "stop") -> Canned:
    choices = [{"index": i, "message": message, "finish_reason": finish} for i, message in enumerate(messages)]
    return Canned(200, {"choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 20}})


def number_of(body: dict[str, Any]) -> int:
    return int(text_of(body).split("number ")[1].split("?")[0])


@pytest.mark.parametrize(
    "ends",
    [error(402, "pay"), error(429, "quota", "insufficient_quota"), error(401, "revoked")],
    ids=["402", "429", "401"],
)
def test_a_quota_that_ends_loses_nothing(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: Canned
) -> None:
    """Four samples are answered, three of one question and one of the next: the second run asks the other 32."""
    answered = []

    def rule(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        if len(answered) == 4:
            return ends
        answered.append(body)
        return None

    with StubEndpoint(rule=rule) as stub, pytest.raises(SystemExit):
        run_teacher(stub.url, tmp_path, *ONE_BY_ONE)
    assert "then run the same command again, which asks for what is missing" in capsys.readouterr().err
    assert len(records(tmp_path / "traces", Trace)) == 4
    assert sum(usage.requests for usage in records(tmp_path / "usage", Usage)) == 4, "what was paid is counted"
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path, *ONE_BY_ONE)
        assert stub.counts["requests"] == 32
    assert len({(t.question_id, t.sample) for t in records(tmp_path / "traces", Trace)}) == 36


@pytest.mark.parametrize(
    "flagged", [error(403), error(403, "flagged", "content_policy_violation")], ids=["bare", "said"]
)
def test_one_refused_question_is_recorded_and_the_others_go_on(
    run_teacher: Stage, tmp_path: Path, flagged: Canned
) -> None:
    with StubEndpoint(rule=lambda body, headers: flagged if number_of(body) == 4 else None) as stub:
        run_teacher(stub.url, tmp_path, "--model.init_args.endpoint.in_flight=2")
        assert stub.counts["answered"] == 11
        asked = stub.counts["requests"]
        run_teacher(stub.url, tmp_path)
        assert stub.counts["requests"] == asked, "nothing is asked again"
    (refused,) = records(tmp_path / "errors", RequestError)
    assert (refused.question_id, refused.permanent) == ("avqa/train/4", True)
    assert len(records(tmp_path / "traces", Trace)) == 33


def test_what_a_wrong_configuration_was_refused_is_asked_again(run_teacher: Stage, tmp_path: Path) -> None:
    """Twelve questions are less than it takes to stop, and no answer showed that the endpoint accepts any."""
    with StubEndpoint(status=400) as stub:
        run_teacher(stub.url, tmp_path)
        assert stub.counts["requests"] == 12
    refused = records(tmp_path / "errors", RequestError)
    assert len(refused) == 12 and not any(e.permanent for e in refused)
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path)
        assert stub.counts["requests"] == 12
    assert json.loads((tmp_path / "report.json").read_text())["errors"] == {}


def test_too_large_requests_are_asked_again(run_teacher: Stage, tmp_path: Path) -> None:
    with StubEndpoint(rule=lambda body, headers: error(413) if number_of(body) == 4 else None) as stub:
        run_teacher(stub.url, tmp_path)
    (large,) = records(tmp_path / "errors", RequestError)
    assert large.kind == "too large" and not large.permanent and "frames.max_side" in large.message
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path, "--data.init_args.frames.max_side=32")
        assert stub.counts["requests"] == 1


def test_half_an_emoji_ends_nothing(run_teacher: Stage, tmp_path: Path) -> None:
    def rule(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        if number_of(body) == 1:
            return error(400, "bad \ud83d")
        return reply(*3 * [{"content": "<think>A dog \ud83d</think><answer>a dog</answer>"}])

    with StubEndpoint(rule=rule) as stub:
        run_teacher(stub.url, tmp_path)
        asked = stub.counts["requests"]
        run_teacher(stub.url, tmp_path)
        assert stub.counts["requests"] == asked
    assert {t.reasoning for t in records(tmp_path / "traces", Trace)} == {"A dog \ufffd"}
    assert len(records(tmp_path / "traces", Trace)) == 33
    assert "bad \ufffd" in records(tmp_path / "errors", RequestError)[0].message


def test_nothing_said_is_no_trace(run_teacher: Stage, tmp_path: Path) -> None:
    """A refusal is recorded for good, and what was left empty at the token limit is asked again."""

    def rule(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        if number_of(body) == 1:
            return reply(*3 * [{"content": None, "refusal": "I cannot help with that."}])
        if number_of(body) == 2:
            return reply(*3 * [{"content": ""}], finish="length")
        parts = [{"type": "thinking", "thinking": "It barks."}, {"type": "text", "text": "<answer>a dog</answer>"}]
        return reply(*3 * [{"content": parts}])

    with StubEndpoint(rule=rule) as stub:
        run_teacher(stub.url, tmp_path)
    traces = records(tmp_path / "traces", Trace)
    assert {(t.reasoning, t.answer) for t in traces} == {("It barks.", "a dog")} and len(traces) == 30
    errors = {(e.question_id[-1], e.sample): (e.kind, e.permanent) for e in records(tmp_path / "errors", RequestError)}
    assert errors == {
        (str(question), sample): found
        for question, found in ((1, ("refusal", True)), (2, ("empty reply", False)))
        for sample in range(3)
    }
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path)
        assert stub.counts["requests"] == 1


def test_fewer_samples_than_asked_for(run_teacher: Stage, tmp_path: Path) -> None:
    """A choice is missing: its number tells which sample it would have been; that one is asked for, then or later."""

    class Forgetful(StubEndpoint):
        def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
            whole = super()._reply(body)
            if number_of(body) == 5 and body.get("n"):
                del whole["choices"][1]
            return whole

    with Forgetful(keep=True) as stub:
        run_teacher(stub.url, tmp_path)
    assert sorted(body.get("n", 1) for body in stub.bodies) == [1] + 12 * [3]
    assert not records(tmp_path / "errors", RequestError)
    shard = tmp_path / "traces" / "rank-00000.jsonl"
    lines = shard.read_text().splitlines(keepends=True)
    shard.write_text("".join(lines[:5] + lines[6:]))  # as if it had not come in this run
    with StubEndpoint(keep=True) as stub:
        run_teacher(stub.url, tmp_path)
        assert [body.get("n", 1) for body in stub.bodies] == [1]
        run_teacher(stub.url, tmp_path / "calm")
    made, calm = (
        {(t.question_id, t.sample): (t.reasoning, t.seed) for t in records(folder / "traces", Trace)}
        for folder in (tmp_path, tmp_path / "calm")
    )
    assert made == calm and len(made) == 36


def test_repaired_clips_are_asked_about_again_and_others_are_named(
    avqa: Path, run_teacher: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "avqa"
    shutil.copytree(avqa, root)
    clips = [root / "videos" / f"clip{number}.mp4" for number in (2, 3)]
    for clip in clips:
        clip.write_bytes(b"not a video")
    out = tmp_path / "out"
    with StubEndpoint() as stub:
        run_teacher(stub.url, out, root=root)
        assert stub.counts["requests"] == 6
        caplog.clear()
        run_teacher(stub.url, out, root=root)
        assert stub.counts["requests"] == 6
        said = caplog.text
        caplog.clear()
        assert "6 questions were recorded as failed for good (6 media) and are not asked again" in said
        assert "retry_errors: true" in said and str(out / "errors") in said
        time.sleep(0.02)
        write_video(tmp_path / "good.mp4", 120)
        os.utime(tmp_path / "good.mp4", (1e9, 1e9))
        shutil.copy2(tmp_path / "good.mp4", clips[0])  # a copy that keeps the old time
        run_teacher(stub.url, out, root=root)
        assert stub.counts["requests"] == 9
        said = caplog.text
        caplog.clear()
        assert "3 questions are asked again, since their clips have changed" in said
        assert "3 questions were recorded as failed for good" in said
        run_teacher(stub.url, out, root=root)
        assert stub.counts["requests"] == 9
        assert "asked again, since" not in caplog.text


@pytest.mark.parametrize("mode", ["trace", "claims"])
def test_a_checker_that_says_nothing_gives_no_verdict(run_verify: Stage, tmp_path: Path, mode: str) -> None:
    """An empty list of claims is not a list without claims, which would accept the trace."""
    write_jsonl(
        tmp_path / "traces" / "a.jsonl", [Trace(f"avqa/train/{q}", 0, "Rain.", OPTIONS[0], "t") for q in (0, 1)]
    )

    def rule(body: dict[str, Any], headers: dict[str, str]) -> Canned | None:
        silent = "number 1" in text_of(body) or "input_audio" not in json.dumps(body)
        return reply({"content": None, "refusal": "I cannot."} if silent else {"content": [{"text": "Yes"}]})

    with StubEndpoint(rule=rule) as stub:
        run_verify(stub.url, tmp_path / "out", tmp_path / "traces", f"--model.init_args.mode={mode}")
    verdicts = records(tmp_path / "out" / "verdicts", Verdict)
    assert [(v.question_id, v.accepted) for v in verdicts] == ([("avqa/train/0", True)] if mode == "trace" else [])
    assert {e.kind for e in records(tmp_path / "out" / "errors", RequestError)} == {"refusal"}
