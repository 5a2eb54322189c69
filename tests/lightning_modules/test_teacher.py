"""The teacher's stage against a stub endpoint: what it sends, what it writes, and what it does when things go wrong."""

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import av
import pytest

from benchmarks.stub_endpoint import StubEndpoint, text_of
from records.records import Trace
from records.request_records import RequestError, Usage
from tests.support.stages import OPTIONS, Stage, records


def comparable(traces: list[Trace]) -> list[str]:
    """All that does not depend on the time, in an order that does not depend on it."""
    return sorted(dataclasses.replace(trace, created=None, endpoint="").to_json() for trace in traces)


def without_audio(source: Path, target: Path) -> None:
    """Copy the video stream's packets as they are and leave the audio out."""
    with av.open(str(source)) as container, av.open(str(target), "w") as silent:
        stream = container.streams.video[0]
        copy = silent.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                silent.mux(packet)


def test_all_traces_with_their_provenance(run_teacher: Stage, tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path)
    traces = records(tmp_path / "traces", Trace)
    assert {(t.question_id, t.sample) for t in traces} == {(f"avqa/train/{q}", s) for q in range(12) for s in range(3)}
    first = traces[0]
    assert first.reasoning.startswith("I hear number") and first.answer in OPTIONS
    assert first.prompt_version == "teacher-audio-cot/1" and first.model == "stub"
    assert first.sampling == {"temperature": 1.0, "top_p": 0.95, "max_tokens": 768}
    assert first.prompt_tokens == 100 and first.endpoint == stub.url.split("/")[2]
    assert len({t.seed for t in traces}) == 36
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["type"] for row in report["types"]] == ["Happening", "Which", "all"]
    assert (report["types"][-1]["questions"], report["types"][-1]["traces"]) == (12, 36)
    assert (report["requests"], report["prompt_tokens"], report["completion_tokens"]) == (12, 1200, 12 * 60)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_n_in_one_request_and_n_requests_give_the_same_traces(run_teacher: Stage, tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path / "one")
        assert stub.counts["requests"] == 12
        run_teacher(stub.url, tmp_path / "n", "--model.init_args.n_in_one_request=false")
        assert stub.counts["requests"] == 12 + 36
    one, n = (records(tmp_path / name / "traces", Trace) for name in ("one", "n"))
    counted = [dataclasses.replace(t, completion_tokens=None) for t in n]
    assert comparable(one) == comparable(counted)
    assert {t.completion_tokens for t in n} == {20}


def test_an_endpoint_without_n_is_named(run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StubEndpoint(respect_n=False) as stub, pytest.raises(SystemExit):
        run_teacher(stub.url, tmp_path)
    assert "n_in_one_request to false" in capsys.readouterr().err


@pytest.mark.parametrize("send", ["images", "video"])
def test_requests_do_not_depend_on_the_audio_track(avqa: Path, run_teacher: Stage, tmp_path: Path, send: str) -> None:
    silent = tmp_path / "silent"
    (silent / "videos").mkdir(parents=True)
    for name in ("train_qa.json", "val_qa.json"):
        shutil.copy(avqa / name, silent)
    for video in (avqa / "videos").iterdir():
        without_audio(video, silent / "videos" / video.name)
        with av.open(str(silent / "videos" / video.name)) as container:
            assert not container.streams.audio and container.streams.video
    sent = []
    for root in (avqa, silent):
        with StubEndpoint(keep=True) as stub:
            run_teacher(stub.url, tmp_path / f"out{len(sent)}", f"--model.init_args.send={send}", root=root)
        sent.append(sorted(json.dumps(body, sort_keys=True) for body in stub.bodies))
    assert len(sent[0]) == 12 and sent[0] == sent[1]


def test_frames_are_sent_as_images_or_as_one_video(run_teacher: Stage, tmp_path: Path) -> None:
    contents = []
    for send in ("images", "video"):
        with StubEndpoint(keep=True) as stub:
            run_teacher(stub.url, tmp_path / send, f"--model.init_args.send={send}", "--data.init_args.limit=1")
        contents.append(stub.bodies[0]["messages"][0]["content"])
    images, video = contents
    assert [part["type"] for part in images] == ["image_url"] * 8 + ["text"]
    assert [part["type"] for part in video] == ["video_url", "text"]
    urls = [part["image_url"]["url"].removeprefix("data:image/jpeg;base64,") for part in images[:-1]]
    assert video[0]["video_url"]["url"] == "data:video/jpeg;base64," + ",".join(urls)
    assert all(base64.b64decode(url)[:3] == b"\xff\xd8\xff" for url in urls)
    assert len(set(urls)) == 8


def test_a_video_can_be_sent_with_its_time(run_teacher: Stage, tmp_path: Path) -> None:
    for count, rate in ((4, 4.0), (2, 2.0), (1, None)):  # of a second of video at 8 frames per second
        out = tmp_path / str(count)
        options = ["--model.init_args.send=video", "--model.init_args.timing=true", "--data.init_args.limit=1"]
        with StubEndpoint(keep=True) as stub:
            run_teacher(stub.url, out, *options, f"--data.init_args.frames.count={count}")
        told = {"num_frames": -1} if rate is None else {"num_frames": -1, "fps": rate}
        assert stub.bodies[0]["media_io_kwargs"] == {"video": told}
    with StubEndpoint(keep=True) as stub:
        run_teacher(stub.url, tmp_path / "untold", *options[::2])
    assert "media_io_kwargs" not in stub.bodies[0], "servers that were not told to trust requests refuse it"


def test_faults_and_kills_change_nothing(run_teacher: Stage, tmp_path: Path) -> None:
    one_by_one = "--model.init_args.n_in_one_request=false"
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path / "calm", one_by_one)
    calm = records(tmp_path / "calm" / "traces", Trace)
    out = tmp_path / "storm"
    with StubEndpoint(fault_rate=0.35, hang=0.6) as stub:
        run_teacher(stub.url, out, one_by_one, "--data.init_args.limit=5")
        shard = out / "traces" / "rank-00000.jsonl"
        lines = shard.read_text().splitlines(keepends=True)
        assert len(lines) == 15
        shard.write_text("".join(lines[:10]) + lines[10][:40])  # killed while it wrote the fourth question
        run_teacher(stub.url, out, one_by_one, "--data.init_args.limit=9")
        with open(shard, "a") as torn:
            torn.write('{"schema": "trace/1", "ques')
        run_teacher(stub.url, out, one_by_one)
        asked = stub.counts["answered"]
        run_teacher(stub.url, out, one_by_one)
        assert stub.counts["answered"] == asked, "a complete run asks nothing"
        assert all(stub.counts[fault] for fault in stub.faults), stub.counts
    assert comparable(records(out / "traces", Trace)) == comparable(calm)
    assert records(out / "errors", RequestError) == []


def test_what_is_refused_becomes_an_error_record_and_is_not_asked_again(run_teacher: Stage, tmp_path: Path) -> None:
    def answer(body: dict[str, Any], index: int) -> str:
        return "<answer>rain</answer>"

    class Picky(StubEndpoint):
        async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: Any) -> bool:
            if "number 7?" in text_of(body):
                self.counts["refused"] += 1
                error = {"message": "blocked by the content management policy", "code": "content_filter"}
                self._send(writer, 400, {"error": error})
                return True
            return await super()._respond(body, headers, writer)

    with Picky(answer=answer) as stub:
        run_teacher(stub.url, tmp_path)
        run_teacher(stub.url, tmp_path)
        assert stub.counts["refused"] == 1
    (error,) = records(tmp_path / "errors", RequestError)
    assert (error.question_id, error.kind, error.permanent) == ("avqa/train/7", "content filter", True)
    assert len(records(tmp_path / "traces", Trace)) == 33
    assert json.loads((tmp_path / "report.json").read_text())["errors"] == {"content filter": 1}


def test_a_clip_that_cannot_be_decoded_is_an_error_record(avqa: Path, run_teacher: Stage, tmp_path: Path) -> None:
    root = tmp_path / "avqa"
    shutil.copytree(avqa, root)
    (root / "videos" / "clip2.mp4").write_bytes(b"not a video")
    (root / "videos" / "clip3.mp4").unlink()
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path / "out", root=root)
    errors = records(tmp_path / "out" / "errors", RequestError)
    assert {e.question_id for e in errors} == {f"avqa/train/{q}" for q in (2, 3, 6, 7, 10, 11)}
    assert {e.kind for e in errors} == {"media"} and all("clip" in e.message for e in errors)
    assert len(records(tmp_path / "out" / "traces", Trace)) == 18


def test_budget_stops_cleanly_and_is_kept_over_restarts(run_teacher: Stage, tmp_path: Path) -> None:
    budget = [
        "--model.init_args.budget.max_tokens=900",  # 160 tokens a request: five fit
        "--model.init_args.budget.price_prompt=1",
        "--model.init_args.budget.price_completion=10",
        "--model.init_args.endpoint.in_flight=1",
    ]
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path, *budget)
        assert stub.counts["answered"] == 5
        run_teacher(stub.url, tmp_path, *budget)
        assert stub.counts["answered"] <= 6
        run_teacher(stub.url, tmp_path, *budget, "--model.init_args.budget.max_tokens=100000")
        assert stub.counts["answered"] == 12
    assert len(records(tmp_path / "traces", Trace)) == 36
    cost = sum(usage.cost for usage in records(tmp_path / "usage", Usage))
    assert cost == pytest.approx(12 * (100 * 1 + 60 * 10) / 1e6)


@pytest.mark.parametrize(("status", "sentence"), [(401, "refuses all requests"), (404, "refuses all requests")])
def test_a_hopeless_endpoint_stops_the_run(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, sentence: str
) -> None:
    with StubEndpoint(status=status) as stub, pytest.raises(SystemExit):
        run_teacher(stub.url, tmp_path)
    said = capsys.readouterr().err
    assert sentence in said and str(status) in said and "Traceback" not in said


def test_an_endpoint_that_is_not_there_is_named(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubEndpoint() as stub:
        url = stub.url
    with pytest.raises(SystemExit):
        run_teacher(url, tmp_path, "--model.init_args.endpoint.retry.attempts=3")
    assert "has answered nothing for" in capsys.readouterr().err


def test_results_of_other_settings_are_not_mixed(
    run_teacher: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubEndpoint() as stub:
        run_teacher(stub.url, tmp_path, "--data.init_args.limit=1")
        with pytest.raises(SystemExit):
            run_teacher(stub.url, tmp_path, "--model.init_args.prompt=teacher-direct")
    assert "prompt_version" in capsys.readouterr().err


def test_the_key_is_sent_and_is_nowhere_on_disk(
    run_teacher: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-very-secret-key")
    with StubEndpoint(keep=True, fault_rate=0.3, faults=("500", "429")) as stub:
        run_teacher(stub.url, tmp_path)
    assert {h["authorization"] for h in stub.headers} == {"bearer a-very-secret-key"}
    assert all("a-very-secret-key" not in json.dumps(body) for body in stub.bodies)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"very-secret" not in file.read_bytes(), file
    out = capsys.readouterr()
    assert "very-secret" not in out.out + out.err
