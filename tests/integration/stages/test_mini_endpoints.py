"""The synthetic world's teacher sees, its checker hears, and together they do what the paper's do."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from datamodules.media.audio import audio_part, load_waveform, wav_base64
from datamodules.media.video import FrameSampling, image_parts, jpeg_base64, load_frames, video_parts
from datamodules.prompts.checker import CHECK_CLAIM, CHECK_TRACE
from datamodules.prompts.questions import AUDIO_VIDEO_DIRECT, TEACHER_AUDIO_COT
from lightning_modules.trace_checker import listen
from mini.world.claims import mentioned, read_question
from mini.world.corpus import CorpusConfig, build_corpus
from mini.world.endpoints import CHECKER, OMNI, TEACHER, MiniEndpoints
from records.records import Question, Trace, Verdict
from tests.support.stages import records, stage_args
from train import main

QUESTION = Question("q", "avqa", "", "Which sound can be heard in the video?", ("bell", "drum"), None, "Come From")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with many silent sources."""
    config = CorpusConfig(seed=5, train_clips=80, val_clips=2, test_clips=1, silent=0.5, hidden=0.15)
    return build_corpus(tmp_path_factory.mktemp("world") / "corpus", config, processes=1, progress=lambda line: None)


@pytest.fixture(scope="session")
def endpoints() -> Any:
    with MiniEndpoints() as served:
        yield served


def ask(endpoints: MiniEndpoints, model: str, messages: list[dict[str, Any]], **fields: Any) -> requests.Response:
    body = {"model": model, "messages": messages, **fields}
    return requests.post(f"{endpoints.url}/chat/completions", json=body, timeout=30)


def said(response: requests.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["message"]["content"] for choice in response.json()["choices"]]


def clips(corpus: Path, **wanted: int) -> list[tuple[Path, dict[str, Any]]]:
    """Training clips in which so many sources are heard and seen, and none acts unseen or unheard."""
    scenes = json.loads((corpus / "scenes.json").read_text())
    return [
        (corpus / media, scene)
        for media, scene in scenes.items()
        if scene["split"] == "train"
        and len(scene["heard"]) == wanted["heard"]
        and sorted(scene["seen"]) == sorted(scene["heard"])
    ]


def pictures(clip: Path, as_video: bool = False) -> list[dict[str, Any]]:
    images = jpeg_base64(load_frames(clip, FrameSampling(count=6)), 90)
    return video_parts(images) if as_video else image_parts(images)


def test_the_teacher_sees(corpus: Path, endpoints: MiniEndpoints) -> None:
    text = {"type": "text", "text": TEACHER_AUDIO_COT.render(QUESTION)}
    shown = clips(corpus, heard=1)
    (one, scene), (other, other_scene) = shown[0], next(c for c in shown if c[1]["seen"] != shown[0][1]["seen"])
    for as_video in (False, True):
        answers = [
            said(
                ask(endpoints, TEACHER, [{"role": "user", "content": [*pictures(clip, as_video), text]}], temperature=0)
            )
            for clip in (one, other)
        ]
        assert scene["seen"][0] in answers[0][0] and other_scene["seen"][0] in answers[1][0]
        assert scene["seen"][0] not in answers[1][0]
    several = said(
        ask(endpoints, TEACHER, [{"role": "user", "content": [*pictures(one), text]}], temperature=1.0, n=16, seed=3)
    )
    assert len(set(several)) > 1
    assert several == said(
        ask(endpoints, TEACHER, [{"role": "user", "content": [*pictures(one), text]}], temperature=1.0, n=16, seed=3)
    )


def test_the_checker_hears(corpus: Path, endpoints: MiniEndpoints) -> None:
    heard = clips(corpus, heard=1)
    (one, scene), (other, other_scene) = heard[0], next(c for c in heard if c[1]["heard"] != heard[0][1]["heard"])
    names = [scene["heard"][0], other_scene["heard"][0]]
    wavs = [wav_base64(load_waveform(clip), "pcm16") for clip in (one, other)]
    for prompt in (CHECK_TRACE, CHECK_CLAIM):
        words = {name: f"I hear a {name}." for name in names}
        answers = [
            [
                said(
                    ask(
                        endpoints,
                        CHECKER,
                        listen(wav, prompt.render(QUESTION, reasoning=words[name], answer=name, claim=words[name])),
                    )
                )[0]
                for name in names
            ]
            for wav in wavs
        ]
        assert answers == [["yes", "no"], ["no", "yes"]]


def test_the_omni_model_hears_and_sees(corpus: Path, endpoints: MiniEndpoints) -> None:
    shown = clips(corpus, heard=1)
    (one, scene), (other, other_scene) = shown[0], next(c for c in shown if c[1]["heard"] != shown[0][1]["heard"])
    right, wrong = scene["heard"][0], other_scene["heard"][0]
    question = dataclasses.replace(QUESTION, options=(wrong, right))
    text = {"type": "text", "text": AUDIO_VIDEO_DIRECT.render(question)}
    sound = {
        name: audio_part(wav_base64(load_waveform(clip), "pcm16")) for name, clip in ((right, one), (wrong, other))
    }

    def answer(*parts: dict[str, Any]) -> str:
        return said(ask(endpoints, OMNI, [{"role": "user", "content": [*parts, text]}], temperature=0))[0]

    assert answer(sound[right]) == answer(*pictures(one)) == f"<answer>{right}</answer>"
    assert answer(sound[wrong]) == answer(*pictures(other)) == f"<answer>{wrong}</answer>"
    assert answer(*pictures(one), sound[wrong]) == f"<answer>{wrong}</answer>", "what is heard counts"


def test_bad_requests_are_refused(endpoints: MiniEndpoints) -> None:
    text = [{"role": "user", "content": CHECK_CLAIM.render(QUESTION, claim="a bell")}]
    assert ask(endpoints, "gpt", text).status_code == 404
    assert ask(endpoints, CHECKER, text).status_code == 400
    assert ask(endpoints, TEACHER, text).status_code == 400
    assert ask(endpoints, OMNI, text).status_code == 400
    assert ask(endpoints, CHECKER, listen("AAAA", text[0]["content"])).status_code == 400


@pytest.mark.parametrize(
    ("question", "kind", "about"),
    [
        ("Which sound comes first in the video?", "first", ()),
        ("What is the last sound that comes in in the video?", "last", ()),
        ("How many sounds were heard throughout the video?", "count", ()),
        ("Is there a dog sound in the video?", "exists", ("dog",)),
        ("Is a bell heard in the audio?", "exists", ("bell",)),
        ("What makes the sound in the video?", "which", ()),
    ],
)
def test_questions_are_understood(question: str, kind: str, about: tuple[str, ...]) -> None:
    asked = read_question(f"Frames follow.\n{question}\nOptions:\n(A) bell\n(B) drum\nThink.")
    assert (asked.kind, asked.about, asked.options) == (kind, about, ("bell", "drum"))


def kind_of(trace: Trace, rows: dict[str, Any], scenes: dict[str, Any]) -> str:
    row = rows[trace.question_id]
    heard = scenes[f"avqa/videos/{row['video_name']}.mp4"]["heard"]
    named = [sound for sound, _ in mentioned(trace.reasoning)]
    if any(sound not in heard for sound in named):
        return "hallucinated"
    in_order = named == [sound for sound in heard if sound in named]
    return "grounded" if in_order and trace.answer == row["multi_choice"][row["answer"]] else "other"


@pytest.mark.parametrize("mode", ["trace", "claims"])
def test_agfv_removes_hallucinations_and_keeps_the_rest(
    corpus: Path, endpoints: MiniEndpoints, tmp_path: Path, mode: str
) -> None:
    out = {stage: tmp_path / stage for stage in ("teacher", "verify")}
    args = {stage: stage_args(f"{stage}.yaml", corpus / "avqa", endpoints.url, out[stage]) for stage in out}
    slow = "--model.init_args.endpoint.timeout=30"
    frames = "--data.init_args.frames.count=6"
    main([*args["teacher"], slow, frames, f"--model.init_args.endpoint.model={TEACHER}", "--model.init_args.samples=2"])
    main(
        [
            *args["verify"],
            slow,
            f"--model.init_args.endpoint.model={CHECKER}",
            f"--model.init_args.mode={mode}",
            "--model.init_args.logprobs=true",
            f"--data.init_args.traces={out['teacher'] / 'traces'}",
        ]
    )
    rows = {f"avqa/train/{row['id']}": row for row in json.loads((corpus / "avqa" / "train_qa.json").read_text())}
    scenes = json.loads((corpus / "scenes.json").read_text())
    verdicts = {(v.question_id, v.sample): v for v in records(out["verify"] / "verdicts", Verdict)}
    counts: Counter[tuple[str, bool]] = Counter()
    for trace in records(out["teacher"] / "traces", Trace):
        counts[kind_of(trace, rows, scenes), verdicts[trace.question_id, trace.sample].accepted] += 1
    hallucinated = counts["hallucinated", True] + counts["hallucinated", False]
    grounded = counts["grounded", True] + counts["grounded", False]
    assert hallucinated > 60 and grounded > 60, counts
    assert counts["hallucinated", False] >= 0.8 * hallucinated, counts
    assert counts["grounded", True] >= 0.8 * grounded, counts
    probabilities = {v.probability for v in verdicts.values()}
    assert len(probabilities) > 10, "probabilities, not only 0 and 1"
