"""Questions for a model behind an endpoint: what is sent, what is counted, and what a restart asks again."""

import base64
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.stub_endpoint import StubEndpoint, text_of
from datamodules.media.audio import load_waveform
from datamodules.media.media_files import MomentaryMediaError
from datamodules.prompts.questions import AUDIO_VIDEO_DIRECT, DIRECT, TEACHER_DIRECT
from inference.chat_api.chat_endpoint import Choice
from lightning_modules.remote_qa import completion_of
from records.records import Prediction, Question, read_jsonl
from records.request_records import RequestError, Usage
from tests.support.ranks import run_machines
from tests.support.stages import OPTIONS, records, stage_args, write_video
from train import main

Ask = Callable[..., Any]


def arguments(stage: str, root: Path, url: str, out: Path) -> list[str]:
    configs = ("benchmark/avqa.yaml", "benchmark/endpoint.yaml")
    return [*stage_args(configs, root, url, out, stage), "--data.init_args.predict_split=train"]


@pytest.fixture
def ask(avqa: Path) -> Ask:
    """Ask the stub the four questions of the validation split (test), or the twelve of the training split (predict)."""

    def run(url: str, out: Path, *more: str, stage: str = "test", root: Path = avqa) -> Any:
        return main([*arguments(stage, root, url, out), *more])

    return run


def read(out: Path) -> list[Prediction]:
    return list(read_jsonl(out / "predictions.jsonl", Prediction))


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


VIDEO = ["--data.init_args.requests.modalities=video", "--data.init_args.prompt=teacher-direct"]
BOTH = ["--data.init_args.requests.modalities=audio_video", "--data.init_args.prompt=audio-video-direct"]


def test_what_is_sent(avqa: Path, ask: Ask, tmp_path: Path) -> None:
    kinds, texts = [], []
    for number, more in enumerate(([], VIDEO, BOTH, [*BOTH, "--model.init_args.send=video"])):
        with StubEndpoint(keep=True) as stub:
            ask(stub.url, tmp_path / str(number), *more, "--data.init_args.audio_text=false")
        contents = [body["messages"][0]["content"] for body in stub.bodies]
        kinds.append([part["type"] for part in contents[0]])
        first = next(content for content in contents if "number 0?" in content[-1]["text"])
        texts.append(first[-1]["text"])
        for part in first:
            if part["type"] == "input_audio":
                assert part["input_audio"]["format"] == "wav"
                samples, rate = soundfile.read(io.BytesIO(base64.b64decode(part["input_audio"]["data"])))
                assert rate == 16_000
                assert np.abs(samples - load_waveform(avqa / "videos" / "clip0.mp4")).max() < 1e-4  # 16-bit integers
        assert {(b["temperature"], b["max_tokens"], b["model"]) for b in stub.bodies} == {(0.0, 512, "stub")}
        assert "seed" not in stub.bodies[0] and "n" not in stub.bodies[0]
    assert kinds == [
        ["input_audio", "text"],
        ["image_url"] * 8 + ["text"],
        ["image_url"] * 8 + ["input_audio", "text"],
        ["video_url", "input_audio", "text"],
    ]
    question = Question("q", "avqa", "", "What is heard in the video, number 0?", tuple(OPTIONS), 0, "Which")
    prompts = (DIRECT, TEACHER_DIRECT, AUDIO_VIDEO_DIRECT, AUDIO_VIDEO_DIRECT)
    assert texts == [prompt.render(question) for prompt in prompts]


def test_frames_alone_need_no_sound(ask: Ask, avqa: Path, tmp_path: Path) -> None:
    root = tmp_path / "avqa"
    shutil.copytree(avqa, root)
    write_video(root / "videos" / "clip1.mp4", 60, sound=False)
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path / "video", *VIDEO, root=root)
        ask(stub.url, tmp_path / "both", *BOTH, root=root)
    assert report(tmp_path / "video")["unanswered"] == {}
    assert report(tmp_path / "both")["unanswered"] == {"media": ["avqa/val/1"]}


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_predictions_and_accuracy(ask: Ask, tmp_path: Path, stage: str) -> None:
    def answer(body: dict[str, Any], index: int) -> str:  # right for every second question
        number = int(text_of(body).split("number ")[1].split("?")[0])
        return f"<think>I listen.</think><answer>{OPTIONS[number % 4 // 2 * 2]}</answer>"

    with StubEndpoint(answer=answer) as stub:
        cli = ask(stub.url, tmp_path, stage=stage)
    found = read(tmp_path)
    split, count = ("train", 12) if stage == "predict" else ("val", 4)
    assert [p.question_id for p in found] == [f"avqa/{split}/{q}" for q in range(count)], "in the data's order"
    assert [p.correct for p in found] == [True, False] * (count // 2)
    first = found[0]
    assert (first.model, first.prompt_version, first.modalities) == ("stub", "direct/1", "audio")
    assert found == cli.model.predictions
    if stage != "predict":
        metrics = cli.trainer.callback_metrics
        name = {"validate": "val", "test": "test"}[stage]
        assert float(metrics[f"{name}/accuracy"]) == 0.5 and float(metrics[f"{name}/format"]) == 1.0
        assert float(metrics[f"{name}/questions"]) == 4
    said = report(tmp_path)
    assert (said["questions"], said["answered"], said["unanswered"], said["not_asked"]) == (count, count, {}, [])
    assert (said["requests"], said["prompt_tokens"], said["completion_tokens"]) == (count, 100 * count, 20 * count)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["errors", "predictions.jsonl", "report.json", f"{stage}.yaml", "usage"]
    )


def test_faults_change_nothing(ask: Ask, tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path / "calm", stage="predict")
    with StubEndpoint(fault_rate=0.4, hang=0.6) as stub:
        ask(stub.url, tmp_path / "storm", stage="predict")
        assert sum(stub.counts[fault] for fault in ("429", "500", "time-out", "dropped", "truncated")) >= 3
    assert read(tmp_path / "calm") == read(tmp_path / "storm") and len(read(tmp_path / "calm")) == 12
    assert records(tmp_path / "storm" / "errors", RequestError) == []


class Picky(StubEndpoint):
    """Refuses question 2 and filters question 3."""

    async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: Any) -> bool:
        if "number 2?" in text_of(body):
            self.counts["refused"] += 1
            self._send(writer, 400, {"error": {"message": "too long for this model", "code": None}})
            return True
        return await super()._respond(body, headers, writer)

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        reply = super()._reply(body)
        if "number 3?" in text_of(body):
            reply["choices"][0]["finish_reason"] = "content_filter"
        return reply


def test_what_has_no_answer_is_counted_named_and_asked_again(
    ask: Ask, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with Picky(answer=lambda body, index: "<answer>a dog</answer>") as stub:
        cli = ask(stub.url, tmp_path, "--model.init_args.endpoint.in_flight=1")  # another answer follows the refusal
        assert stub.counts["refused"] == 1
    assert [p.completion for p in read(tmp_path)] == ["<answer>a dog</answer>"] * 2 + [""] * 2
    assert float(cli.trainer.callback_metrics["test/accuracy"]) == 0.25
    assert float(cli.trainer.callback_metrics["test/unanswerable"]) == 0.5
    said = report(tmp_path)
    assert said["unanswered"] == {"HTTP 400": ["avqa/val/2"], "content filter": ["avqa/val/3"]}
    assert said["answered"] == 2 and said["errors"] == {"HTTP 400": 1, "content filter": 1}
    assert any("2 of 4 questions have no answer" in str(warning.message) for warning in recwarn)
    errors = records(tmp_path / "errors", RequestError)
    assert {e.question_id: e.permanent for e in errors} == {"avqa/val/2": True, "avqa/val/3": True}
    with StubEndpoint(answer=lambda body, index: "<answer>a violin</answer>") as stub:
        cli = ask(stub.url, tmp_path)
        assert stub.counts["requests"] == 2
    assert [p.correct for p in read(tmp_path)] == [True, False, True, False]
    assert float(cli.trainer.callback_metrics["test/accuracy"]) == 0.5
    assert report(tmp_path)["unanswered"] == {} and report(tmp_path)["errors"] == {}


def test_a_clip_that_cannot_be_decoded_is_no_answer(ask: Ask, avqa: Path, tmp_path: Path) -> None:
    root = tmp_path / "avqa"
    shutil.copytree(avqa, root)
    (root / "videos" / "clip2.mp4").write_bytes(b"not a video")
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path / "out", root=root)
        assert stub.counts["requests"] == 3
    assert report(tmp_path / "out")["unanswered"] == {"media": ["avqa/val/2"]}
    assert len(read(tmp_path / "out")) == 4


def test_an_interrupted_run_goes_on(ask: Ask, tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path, stage="predict")
        whole = read(tmp_path)
        ask(stub.url, tmp_path, stage="predict")
        assert stub.counts["requests"] == 12, "a finished run asks nothing"
    shard = tmp_path / "predictions.jsonl.rank0"
    (tmp_path / "predictions.jsonl").unlink()
    shard.write_text("".join(p.to_json() + "\n" for p in whole[3:8]) + whole[8].to_json()[:50])  # torn by the kill
    with StubEndpoint() as stub:
        cli = ask(stub.url, tmp_path, stage="predict")
        assert stub.counts["requests"] == 7
    assert read(tmp_path) == whole == cli.model.predictions
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path, "--trainer.callbacks.resume=false", stage="predict")
        assert stub.counts["requests"] == 12
    assert read(tmp_path) == whole and not shard.exists()


def test_answers_that_were_paid_for_are_kept_whatever_comes_later(ask: Ask, tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path, stage="predict")
    whole = read(tmp_path)
    # a run that was to ask all anew got no answers before it was killed, on one rank of two
    empty = "".join(dataclasses.replace(p, completion="", choice=None).to_json() + "\n" for p in whole[:6])
    (tmp_path / "predictions.jsonl.rank1").write_text(empty)
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path, "--data.init_args.limit=2", stage="predict")  # comes by two of them
        assert stub.counts["requests"] == 0, "all of it has an answer"
    assert sorted(p.to_json() for p in read(tmp_path)) == sorted(p.to_json() for p in whole)


def test_a_clip_that_cannot_be_read_now_is_no_lasting_error(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(path: Path, *_: Any) -> Any:
        raise MomentaryMediaError(f"{path}: stale file handle")

    with monkeypatch.context() as stalled, StubEndpoint() as stub:
        stalled.setattr("datamodules.media.audio.load_waveform", stall)
        ask(stub.url, tmp_path)
    assert {e.permanent for e in records(tmp_path / "errors", RequestError)} == {False}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--model.init_args.endpoint.model=other"], "answered before with model 'stub', now it is 'other'"),
        (["--data.init_args.prompt=cot"], "answered before with prompt_version 'direct/1', now it is 'cot/1'"),
        (VIDEO, "answered before with prompt_version"),
        (["--data.init_args.option_order=1"], "answered before with other options"),
        (["--data.init_args.probe=silence"], "answered before with other options or with other audio"),
    ],
)
def test_answers_of_other_settings_are_not_mixed(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], sentence: str
) -> None:
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path)
        with pytest.raises(SystemExit):
            ask(stub.url, tmp_path, *change)
        assert stub.counts["requests"] == 4
    assert sentence in capsys.readouterr().err


def test_a_spent_budget_leaves_questions_that_were_not_asked(ask: Ask, tmp_path: Path) -> None:
    budget = ["--model.init_args.budget.max_tokens=500", "--model.init_args.endpoint.in_flight=1"]  # 120 a question
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path, *budget, stage="predict")
        assert stub.counts["answered"] == 4
        assert len(read(tmp_path)) == 4 and len(report(tmp_path)["not_asked"]) == 8
        ask(stub.url, tmp_path, *budget, stage="predict")
        assert stub.counts["answered"] <= 5, "the budget covers all runs"
        ask(stub.url, tmp_path, *budget, "--model.init_args.budget.max_tokens=100000", stage="predict")
        assert stub.counts["answered"] == 12
    assert len(read(tmp_path)) == 12 and report(tmp_path)["not_asked"] == []
    assert sum(u.prompt_tokens for u in records(tmp_path / "usage", Usage)) == 1200


def test_a_hopeless_endpoint_stops_the_run_and_keeps_what_was_answered(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Revoked(StubEndpoint):
        async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: Any) -> bool:
            if self.counts["answered"] == 5:
                self.status = 401
            return await super()._respond(body, headers, writer)

    with Revoked() as stub, pytest.raises(SystemExit):
        ask(stub.url, tmp_path, "--model.init_args.endpoint.in_flight=1", stage="predict")
    assert "refuses all requests" in capsys.readouterr().err
    with StubEndpoint() as stub:
        ask(stub.url, tmp_path, stage="predict")
        assert stub.counts["requests"] == 7
    assert len(read(tmp_path)) == 12


def test_probes_and_orders_reach_the_endpoint(ask: Ask, tmp_path: Path) -> None:
    with StubEndpoint(keep=True) as stub:
        ask(stub.url, tmp_path, "--data.init_args.probe=silence", "--data.init_args.option_order=1")
    wav = stub.bodies[0]["messages"][0]["content"][0]["input_audio"]["data"]
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(wav)))
    assert len(samples) > 15_000 and not samples.any()
    assert {p.probe for p in read(tmp_path)} == {"silence"}
    assert any(p.options != tuple(OPTIONS) for p in read(tmp_path))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (VIDEO[:1], "data.prompt 'direct' speaks of audio, but the model gets video"),
        (VIDEO[1:], "data.prompt 'teacher-direct' speaks of video, but the model gets audio"),
        ([*VIDEO, "--data.init_args.probe=silence"], "data.probe tampers with the audio, of which nothing is sent"),
        (["--data.init_args.requests=null"], "RemoteQAModule asks an endpoint: say in data.requests"),
        (
            [
                "--trainer.callbacks=callbacks.PredictionWriter",
                "--trainer.callbacks.path=predictions.jsonl",
            ],
            "PredictionWriter does not fit RemoteQAModule",
        ),
        (["--data.init_args.prompt=cot-distill"], "needs the teacher's traces: set data.hints"),
        (["--data.init_args.hints=traces"], "data.hints needs a prompt with a place for them"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit):
        ask("http://127.0.0.1:9/v1", tmp_path, *change)
    assert sentence in capsys.readouterr().err


@pytest.mark.integration
def test_two_machines_share_the_questions(ask: Ask, avqa: Path, tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        nodes = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp"]
        args = [*arguments("test", avqa, stub.url, tmp_path), *nodes]
        run_machines(args, tmp_path / "logs")
        assert stub.counts["requests"] == 4, "each question once"
        assert sorted(p.question_id for p in read(tmp_path)) == [f"avqa/val/{q}" for q in range(4)]
        assert len(list((tmp_path / "usage").iterdir())) == 2 and report(tmp_path)["requests"] == 4
        ask(stub.url, tmp_path)
        assert stub.counts["requests"] == 4, "a single rank finds what both have written"


def test_reasoning_that_the_server_returns_by_itself_is_part_of_the_completion() -> None:
    assert completion_of(Choice("<answer>a</answer>")) == "<answer>a</answer>"
    assert completion_of(Choice("<answer>a</answer>", reasoning=" why ")) == "<think>why</think><answer>a</answer>"
