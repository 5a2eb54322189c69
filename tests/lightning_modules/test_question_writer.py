"""The stage that writes questions, against a stub endpoint: what it sends, what it keeps, and that it goes on."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stub_endpoint import StubEndpoint, text_of
from datamodules.clip_frames import clip_names
from datamodules.prompts.question_kinds import QUESTION_KINDS
from inference.chat_api.endpoint_settings import EndpointSettings
from lightning_modules.question_writer import QuestionWriterModule
from records.proposed_question import ProposedQuestion
from records.request_records import RequestError
from runtime.errors import UserError
from tests.support.stages import records, stage_args, write_video
from train import main

GOOD = json.dumps({"question": "What is heard?", "answer": "a dog", "others": ["a cat", "rain", "a bell"]})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos, one of them broken, and nothing else."""
    root = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(root / "videos" / f"clip{number}.mp4", 60 * number)
    (root / "videos" / "broken.mp4").write_bytes(b"\0" * 100)
    (root / "videos" / "notes.txt").write_text("not a clip")
    return root


def run(url: str, root: Path, out: Path, *more: str) -> None:
    main([*stage_args("questions.yaml", root, url, out), *more])


def said(body: dict[str, Any], index: int) -> str:
    """A good question, but for one kind, of which it says what is no question."""
    return "It barks." if "of the kind: Why (" in text_of(body) else GOOD


def comparable(folder: Path) -> list[str]:
    """All that does not depend on time and order."""
    made = records(folder / "proposals", ProposedQuestion)
    return sorted(dataclasses.replace(one, created=None, endpoint="").to_json() for one in made)


def test_each_clip_gets_questions_of_different_kinds(clips: Path, tmp_path: Path) -> None:
    with StubEndpoint(answer=said, keep=True) as stub:
        run(stub.url, clips, tmp_path, "--model.init_args.questions_per_clip=14")
    made = records(tmp_path / "proposals", ProposedQuestion)
    assert Counter(one.question_id for one in made) == {"clip0": 14, "clip1": 14, "clip2": 14}
    for clip in ("clip0", "clip1", "clip2"):
        assert {one.kind for one in made if one.question_id == clip} == set(QUESTION_KINDS)
    for one in made:
        if one.kind == "Why":
            assert (one.fault, one.completion, one.text, one.options) == ("no JSON object", "It barks.", "", ())
        else:
            assert (one.fault, one.text, one.options) == ("", "What is heard?", ("a dog", "a cat", "rain", "a bell"))
        assert one.completion and one.model == "stub" and one.prompt_version == "write-question/1"
    assert len({one.seed for one in made}) == len(made)
    content = stub.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 8 + ["text"] and "input_audio" not in str(content[-1])
    [error] = records(tmp_path / "errors", RequestError)
    assert (error.question_id, error.kind, error.permanent) == ("broken", "media", True)


def test_a_run_that_was_broken_off_goes_on(clips: Path, tmp_path: Path) -> None:
    with StubEndpoint(answer=said) as stub:
        run(stub.url, clips, tmp_path / "whole")
        asked = stub.counts["requests"]
        run(stub.url, clips, tmp_path / "parts")
    shard = tmp_path / "parts/proposals/rank-00000.jsonl"
    lines = shard.read_text("utf-8").splitlines(keepends=True)
    shard.write_text("".join(lines[:2]) + lines[2][:50], "utf-8")
    with StubEndpoint(answer=said) as stub:
        run(stub.url, clips, tmp_path / "parts")
        assert (asked, stub.counts["requests"]) == (6, 4)
    assert comparable(tmp_path / "whole") == comparable(tmp_path / "parts")


def test_what_is_refused(tmp_path: Path) -> None:
    endpoint = EndpointSettings("http://127.0.0.1:9/v1", "m")
    with pytest.raises(UserError, match="'Colour'; there are Which, Come From"):
        QuestionWriterModule(endpoint, kinds=["Which", "Colour"])
    with pytest.raises(UserError, match="is 2, but there are 1 kinds"):
        QuestionWriterModule(endpoint, questions_per_clip=2, kinds=["Which"])
    with pytest.raises(UserError, match="is empty"):
        QuestionWriterModule(endpoint, kinds=[])
    with pytest.raises(UserError, match="should hold the clips"):
        clip_names(tmp_path / "none", ".mp4")
    with pytest.raises(UserError, match=r"no file whose name ends in \.mp4"):
        clip_names(tmp_path, ".mp4")


def test_kinds_are_spread_evenly() -> None:
    module = QuestionWriterModule(EndpointSettings("http://127.0.0.1:9/v1", "m"))
    counts = Counter(module.kind(f"clip{number}", sample).name for number in range(700) for sample in range(2))
    assert set(counts) == set(QUESTION_KINDS) and all(65 <= count <= 135 for count in counts.values())  # 100 each
