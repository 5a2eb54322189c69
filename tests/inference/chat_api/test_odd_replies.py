"""What models say that is no text: half an emoji."""

from pathlib import Path

from benchmarks.stub_endpoint import StubEndpoint
from records.records import Trace
from tests.support.stages import Stage, records


def test_half_an_emoji_in_a_reply_is_paid_for_once(run_teacher: Stage, tmp_path: Path) -> None:
    """Nothing is lost, and the restarted stage does not ask for it again."""
    with StubEndpoint(
        answer=lambda body, index: "<think>It barks \ud83d loudly.</think><answer>a dog</answer>"
    ) as stub:
        run_teacher(stub.url, tmp_path, "--data.init_args.limit=2")
        asked = stub.counts["answered"]
        run_teacher(stub.url, tmp_path, "--data.init_args.limit=3")  # one question more
        assert stub.counts["answered"] == asked * 3 // 2
    traces = records(tmp_path / "traces", Trace)
    assert {(trace.reasoning, trace.answer) for trace in traces} == {("It barks \ufffd loudly.", "a dog")}
    assert len({trace.question_id for trace in traces}) == 3
