"""The teacher's stage against a real vLLM server with a tiny Qwen2.5-VL: what it says is noise, the protocol is not."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from datamodules.batching.items import TeacherExample
from datamodules.media.video import image_parts, jpeg_base64, video_parts, video_timing
from inference.chat_api.chat_endpoint import EndpointSettings, RequestStats
from inference.vllm_server import VLLMServer
from lightning_modules.chat_stage import Work
from lightning_modules.teacher import TeacherModule, request_seed
from mini.world.corpus import CorpusConfig, build_corpus
from records.records import Prediction, Question, Trace, read_jsonl
from records.request_records import RequestError, Usage
from tests.support.stages import records, stage_args
from tests.support.tiny_vision_model import build
from train import main

pytestmark = pytest.mark.server

NAME = "tiny-teacher"
QUESTION = Question("avqa/train/0", "avqa", "", "What is heard?", ("a dog", "rain"), 0, "Which")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """The server; it lets requests say how a video's frames are to be taken."""
    extra = ["--served-model-name", NAME, "--limit-mm-per-prompt", '{"image": 16, "video": 1}']
    log = tmp_path_factory.mktemp("vllm") / "teacher.log"
    weights = build(tmp_path_factory.mktemp("weights") / "tiny-vision")
    settings: dict[str, Any] = {"max_num_seqs": 16, "max_model_len": 1536, "log_file": log}
    with VLLMServer(weights, **settings, extra=[*extra, "--trust-request-mm-kwargs"]) as server:
        yield server


@pytest.fixture(scope="module")
def avqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic world's AVQA: six questions about three clips."""
    config = CorpusConfig(train_clips=3, val_clips=1, test_clips=1)
    corpus = build_corpus(tmp_path_factory.mktemp("world") / "corpus", config, processes=1, progress=lambda line: None)
    return corpus / "avqa"


def run(teacher: VLLMServer, avqa: Path, out: Path, **options: Any) -> list[Trace]:
    """Run the stage with 3 samples of 12 tokens; returns the traces."""
    values = {
        "model.init_args.endpoint.model": NAME,
        "model.init_args.endpoint.timeout": 120,
        "model.init_args.samples": 3,
        "model.init_args.max_tokens": 12,
        **{name.replace("__", ".init_args."): value for name, value in options.items()},
    }
    main([*stage_args("teacher.yaml", avqa, f"{teacher.url}/v1", out), *(f"--{n}={v}" for n, v in values.items())])
    assert records(out / "errors", RequestError) == []
    return sorted(records(out / "traces", Trace), key=lambda trace: (trace.question_id, trace.sample))


@pytest.mark.parametrize("send", ["images", "video"])
def test_traces_by_n_and_by_single_requests(teacher: VLLMServer, avqa: Path, tmp_path: Path, send: str) -> None:
    frames = {"data__frames.count": 4, "data__frames.max_side": 56}
    one = run(teacher, avqa, tmp_path / "one", model__send=send, **frames)
    n = run(teacher, avqa, tmp_path / "n", model__send=send, model__n_in_one_request="false", **frames)
    assert [(t.question_id, t.sample) for t in one] == [(f"avqa/train/{q}", s) for q in range(6) for s in range(3)]
    assert [t.seed for t in one] == [request_seed(0, t.question_id) + t.sample for t in one]
    # vLLM gives sample i the seed s + i, as the stage does: both ways draw the same
    assert [dataclasses.replace(t, created=None, completion_tokens=None) for t in one] == [
        dataclasses.replace(t, created=None, completion_tokens=None) for t in n
    ]
    assert len({t.reasoning for t in one}) > 12, "samples differ"
    assert all(1 <= (t.completion_tokens or 0) <= 12 for t in n)
    spent = [records(tmp_path / name / "usage", Usage) for name in ("one", "n")]
    assert [sum(u.requests for u in some) for some in spent] == [6, 18]
    prompts = {t.question_id: t.prompt_tokens or 0 for t in one}
    assert sum(u.prompt_tokens for u in spent[0]) == sum(prompts.values())
    assert sum(u.prompt_tokens for u in spent[1]) == 3 * sum(prompts.values())
    generated = sum(t.completion_tokens or 0 for t in n)
    assert [sum(u.completion_tokens for u in some) for some in spent] == [generated] * 2
    assert json.loads((tmp_path / "one" / "report.json").read_text())["completion_tokens"] == generated


def test_prompts_grow_with_the_frames(teacher: VLLMServer, avqa: Path, tmp_path: Path) -> None:
    def tokens(send: str, count: int) -> int:
        options = {"data__frames.count": count, "data__frames.max_side": 56, "data__limit": 1, "model__send": send}
        return run(teacher, avqa, tmp_path / f"{send}{count}", **options)[0].prompt_tokens or 0

    # 56 x 56 pixels are 4 x 4 patches of 14, four of which make a token: 4 tokens, with begin and end 6
    assert tokens("images", 6) - tokens("images", 2) == 4 * 6
    # in a video two frames share their tokens, and there is one begin and end
    assert tokens("video", 6) - tokens("video", 2) == 2 * 4
    assert tokens("images", 6) - tokens("video", 6) == 6 * 6 - (3 * 4 + 2)


def pictures(number: int, seed: int) -> tuple[str, ...]:
    noise = np.random.default_rng(seed).integers(0, 256, (number, 56, 56, 3), dtype=np.uint8)
    return tuple(jpeg_base64(noise, 90))


def first_token(teacher: VLLMServer, content: list[dict[str, Any]], **fields: Any) -> dict[str, float]:
    text = {"type": "text", "text": "What is heard?"}
    body = {"model": NAME, "messages": [{"role": "user", "content": [*content, text]}], "max_tokens": 1, **fields}
    body |= {"temperature": 0, "logprobs": True, "logprob_token_ids": [65, 66, 67]}
    answer = requests.post(f"{teacher.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    (token,) = answer.json()["choices"][0]["logprobs"]["content"]
    return {one["token"]: one["logprob"] for one in token["top_logprobs"]}


@pytest.mark.parametrize("parts", [image_parts, video_parts])
def test_the_server_sees(teacher: VLLMServer, parts: Any) -> None:
    first, again, other = (first_token(teacher, parts(list(pictures(4, seed)))) for seed in (0, 0, 1))
    assert first == pytest.approx(again, abs=1e-4)
    assert max(abs(first[token] - other[token]) for token in first.keys() & other.keys()) > 0.01


def asked(teacher: VLLMServer, item: TeacherExample, **options: Any) -> tuple[Trace, RequestStats]:
    """One greedy trace and what it took."""
    module = TeacherModule(
        EndpointSettings(f"{teacher.url}/v1", NAME),
        samples=1,
        prompt="teacher-direct",
        temperature=0.0,
        max_tokens=8,
        send="video",
        **options,
    )
    work = Work()

    async def ask() -> None:
        try:
            await module.ask(item, work)
        finally:
            await module.endpoint.close()

    asyncio.run(ask())
    (trace,) = work.records
    assert isinstance(trace, Trace) and not work.errors
    return trace, work.tally


def test_all_frames_of_a_long_video_are_seen(teacher: VLLMServer) -> None:
    few, many = TeacherExample(QUESTION, pictures(32, 0), rate=1.0), TeacherExample(QUESTION, pictures(40, 0), rate=1.0)
    shown = asked(teacher, few, timing=True)[1].prompt_tokens
    assert asked(teacher, many, timing=True)[1].prompt_tokens == shown + 4 * 4  # two frames make 4 tokens
    with pytest.warns(UserWarning, match="all but the first 32 of a video's 40 frames"):
        assert asked(teacher, many)[1].prompt_tokens == shown


def test_the_server_knows_the_time_between_frames(teacher: VLLMServer) -> None:
    def score(fields: dict[str, Any]) -> dict[str, float]:
        return first_token(teacher, video_parts(list(pictures(8, 0))), **fields)

    untold, told = score({}), score(video_timing(0.25))
    # a second is what vLLM assumes
    assert score(video_timing(1.0)) == pytest.approx(untold, abs=1e-4)
    assert score(video_timing(None)) == pytest.approx(untold, abs=1e-4)
    assert max(abs(told[token] - untold[token]) for token in told.keys() & untold.keys()) > 0.01


@pytest.mark.parametrize("send", ["images", "video"])
def test_a_row_of_the_table_is_answered_from_frames(teacher: VLLMServer, avqa: Path, tmp_path: Path, send: str) -> None:
    values = {
        "trainer.default_root_dir": tmp_path,
        "trainer.enable_progress_bar": "false",
        "model.init_args.endpoint.base_url": f"{teacher.url}/v1",
        "model.init_args.endpoint.model": NAME,
        "model.init_args.send": send,
        "model.init_args.max_tokens": 12,
        "data.init_args.root": avqa,
        "data.init_args.num_workers": 0,
        "data.init_args.requests.frames.count": 4,
        "data.init_args.requests.frames.max_side": 56,
    }
    names = ("benchmark/avqa.yaml", "benchmark/endpoint.yaml", "benchmark/rows/qwen2.5-vl-7b-direct.yaml")
    configs = [f"--config={name}" for name in names]
    main(["test", *configs, *(f"--{name}={value}" for name, value in values.items())])
    found = list(read_jsonl(tmp_path / "predictions.jsonl", Prediction))
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(found) == report["answered"] == report["questions"] > 0 and report["errors"] == {}
    assert {(p.prompt_version, p.modalities) for p in found} == {("teacher-direct/1", "video")}
    assert report["sent"]["frames"]["count"] == 4
