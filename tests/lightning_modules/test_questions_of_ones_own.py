"""What the teacher and the checker do for written questions: orders of options, no clip at all, answers alone."""

import json
from pathlib import Path

import pytest

from benchmarks.stub_endpoint import StubEndpoint, text_of
from records.records import Trace, Verdict, write_jsonl
from tests.support.stages import OPTIONS, Stage, records


def options_of(text: str) -> list[str]:
    return [line[4:] for line in text.splitlines() if line.startswith("(")]


def test_each_sample_has_its_order_of_options(run_teacher: Stage, tmp_path: Path) -> None:
    shuffled = ("--model.init_args.shuffle_options=true", "--data.init_args.limit=4")
    with StubEndpoint(answer=lambda body, index: "<think>I hear it.</think><answer>A</answer>", keep=True) as stub:
        run_teacher(stub.url, tmp_path, *shuffled)
        run_teacher(stub.url, tmp_path, *shuffled)
    assert stub.counts["requests"] == 12, "one for each sample, and none again"
    shown = [options_of(text_of(body)) for body in stub.bodies]
    assert all(sorted(options) == sorted(OPTIONS) for options in shown) and len({tuple(o) for o in shown}) > 4
    traces = records(tmp_path / "traces", Trace)
    assert sorted(trace.answer for trace in traces) == sorted(options[0] for options in shown), "the first, by its text"
    assert all(trace.sampling["shuffle_options"] is True for trace in traces)


def test_traces_of_both_ways_are_not_mixed(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path, "--data.init_args.limit=1")
        with pytest.raises(SystemExit):
            run_teacher(stub.url, tmp_path, "--data.init_args.limit=1", "--model.init_args.shuffle_options=true")
    assert "shuffle_options" in capsys.readouterr().err


def test_a_prior_is_sent_nothing_of_the_clip(run_teacher: Stage, tmp_path: Path) -> None:
    with StubEndpoint(keep=True) as stub:
        run_teacher(stub.url, tmp_path, "--model.init_args.prompt=prior", "--data.init_args.blind=true")
    assert len(stub.bodies) == 12
    for body in stub.bodies:
        assert [part["type"] for part in body["messages"][0]["content"]] == ["text"]
    assert {trace.prompt_version for trace in records(tmp_path / "traces", Trace)} == {"prior/1"}


@pytest.mark.parametrize(
    ("option", "said"),
    [("--model.init_args.prompt=prior", "shows frames of each clip"), ("--data.init_args.blind=true", "no frames")],
)
def test_frames_and_prompt_must_fit(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, said: str
) -> None:
    with StubEndpoint() as stub, pytest.raises(SystemExit):
        run_teacher(stub.url, tmp_path, option)
    assert said in capsys.readouterr().err and stub.counts["requests"] == 0


def test_the_answer_alone_must_be_right(run_verify: Stage, tmp_path: Path) -> None:
    """Of question 0 only the answer is heard, of question 1 another option too, of question 2 another one alone."""
    answers = {"0": OPTIONS[0], "1": OPTIONS[0], "2": OPTIONS[0]}
    traces = [Trace(f"avqa/train/{q}", s, "" if s else "I see.", a, "t") for q, a in answers.items() for s in range(2)]
    unreadable = Trace("avqa/train/0", 2, "I see.", "a horse", "t")
    (tmp_path / "traces").mkdir()
    write_jsonl(tmp_path / "traces" / "t.jsonl", [*traces, unreadable])
    heard = {"0": {OPTIONS[0]}, "1": {OPTIONS[0], OPTIONS[3]}, "2": {OPTIONS[1]}}

    def checker(body: dict, index: int) -> str:
        text = text_of(body)
        number = text.partition("number ")[2].partition("?")[0]
        return "yes" if text.partition("This is an answer: ")[2].splitlines()[0] in heard[number] else "no"

    with StubEndpoint(answer=checker, keep=True) as stub:
        run_verify(stub.url, tmp_path / "out", tmp_path / "traces", "--model.init_args.mode=answer")
        assert stub.counts["requests"] == 3 * len(OPTIONS), "the traces of an answer are judged together"
        run_verify(stub.url, tmp_path / "out", tmp_path / "traces", "--model.init_args.mode=answer")
        assert stub.counts["requests"] == 3 * len(OPTIONS)
    assert all("input_audio" in json.dumps(body) for body in stub.bodies)
    verdicts = {(v.question_id[-1], v.sample): v for v in records(tmp_path / "out/verdicts", Verdict)}
    accepted = {place: verdict.accepted for place, verdict in verdicts.items()}
    kept = {("0", 0): True, ("0", 1): True, ("0", 2): False}
    assert accepted == kept | {(q, s): False for q in "12" for s in range(2)}
    assert verdicts["0", 0].evidence == ("yes: a dog", "no: a cat", "no: a violin", "no: rain")
    assert verdicts["1", 0].probability == 0.0 and verdicts["1", 0].evidence[3] == "yes: rain"
    assert verdicts["0", 2].evidence == ("no readable answer",)
    assert {(v.mode, v.prompt_version) for v in verdicts.values()} == {("answer", "check-answer/1")}
