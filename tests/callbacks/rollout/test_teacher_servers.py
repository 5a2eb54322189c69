"""Rollouts that a teacher scores, with recording servers and real clips."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoProcessor

from benchmarks.fake_server import FakeServer
from callbacks.rollout.teacher_servers import TeacherServers
from datamodules.avqa import AVQADataModule
from datamodules.media.probes import derangement
from datamodules.media.video import FrameSampling
from inference.rollout_requests import Prompt
from inference.teacher_pool import TeacherPool
from inference.vllm.client import RequestOutput, ServerError
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.distillation import OnPolicyDistillation
from mini.world.corpus import CorpusConfig, build_corpus
from records.records import Verdict
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import rollouts, trainer
from tests.support.fake_teacher import FakeTeacher, score
from tests.support.questions import Learner, Questions
from tests.support.tiny_vision_model import build, of_student

FRAMES = FrameSampling(count=3, max_side=56)


@pytest.fixture(scope="module")
def avqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with two questions each to train on."""
    config = CorpusConfig(train_clips=2, val_clips=1, test_clips=1)
    corpus = build_corpus(tmp_path_factory.mktemp("world") / "corpus", config, processes=1, progress=lambda line: None)
    return corpus / "avqa"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A teacher with the student's ids, and one with others."""
    root = tmp_path_factory.mktemp("teachers")
    return [build(root / "same", tokenizer=of_student()), build(root / "other")]


@pytest.fixture
def servers(server_weights: Path, checkpoints: list[Path]) -> Iterator[tuple[FakeServer, FakeTeacher]]:
    with FakeServer(server_weights) as drawing, FakeTeacher(checkpoints[0]) as teacher:
        yield drawing, teacher


def learner(weights: Path, teacher: FakeServer, **settings: Any) -> Learner:
    module = Learner(str(weights))
    module.distillation = OnPolicyDistillation(teacher_urls=[teacher.url], frames=FRAMES, **settings)
    return module


def fit(tmp_path: Path, module: Learner, drawing: FakeServer, data: Any, **settings: Any) -> Any:
    run = trainer(tmp_path, rollouts(drawing, **settings), num_sanity_val_steps=0)
    run.fit(module, data)
    return run


def questions(avqa: Path, **settings: Any) -> AVQADataModule:
    return AVQADataModule(str(avqa), batch_size=4, num_workers=0, prompt="think-short", **settings)


def shown(body: dict[str, Any]) -> tuple[str, ...]:
    return tuple(part["url"] for part in body["content_parts"])


def test_each_completion_is_scored_with_the_frames_of_its_clip(
    tmp_path: Path, server_weights: Path, servers, avqa, monkeypatch
):
    drawing, teacher = servers
    monkeypatch.setattr("callbacks.rollout.rollout_servers.RolloutServers.pass_alone", lambda *_: None)  # fake scores
    module = learner(server_weights, teacher)
    run = fit(tmp_path, module, drawing, questions(avqa), parity_gate=True)
    assert len(teacher.scored) == 2 + 4 * 2
    del teacher.scored[:2]  # the gate's
    assert teacher.pushes() == [] and drawing.pushes()
    assert float(run.callback_metrics["time/teacher"]) > 0
    assert {len(shown(body)) for body in teacher.scored} == {3}
    assert len({shown(body) for body in teacher.scored}) == 2  # of each clip its own
    assert {body["sampling_params"]["temperature"] for body in teacher.scored} == {0.0}
    sent = {tuple(body["token_ids"]): body for body in teacher.scored}
    for batch in module.train_batches:
        done = batch.completions
        assert done.blind_logprobs is None and done.teacher_logprobs.shape == done.ids.shape
        for row, question in enumerate(batch.questions):
            for index in range(2):
                ids = done.ids[row, index, : done.lengths[row, index]].tolist()
                (body,) = [one for key, one in sent.items() if key[-len(ids) :] == tuple(ids)]
                assert question.text in teacher.tokenizer.decode(body["token_ids"])
                before, seen = teacher._expanded(body["token_ids"])[: -len(ids)], "".join(shown(body))
                wanted = [score(seen, before + ids[: at + 1]) for at in range(len(ids))]
                assert done.teacher_logprobs[row, index, : len(ids)].tolist() == pytest.approx(wanted)


SAID = "<think>no rain</think><answer>yes</answer>"


def asked(avqa: Path, weights: Path, fake: FakeTeacher, **settings: Any) -> dict[str, list[CompletionOutput]]:
    """What the teacher thinks of two completions of each question, without training."""
    data = questions(avqa, processor=str(weights))
    data.setup("fit")
    student = AutoProcessor.from_pretrained(weights)
    ids = [*student.tokenizer(SAID, add_special_tokens=False)["input_ids"], 2]
    drawn = RequestOutput([], [CompletionOutput(some, [-1.0] * len(some), True) for some in (ids, ids[:4])])
    chosen = OnPolicyDistillation(teacher_urls=[fake.url], frames=FRAMES, **settings)
    servers = TeacherServers(TeacherPool(list(chosen.urls), retry_seconds=10), chosen, False)
    servers.wait()
    module: Any = SimpleNamespace(student=SimpleNamespace(processor=student))
    servers.meet(SimpleNamespace(datamodule=data), module)
    how = SamplingParams(2, 1, 1.0, 0, ())
    try:
        known = data.questions("train")
        prompts = [Prompt(f"{question.id} (clip)", [], "", how, question=question) for question in known]
        return {q.id: servers.score(prompt, drawn).samples for q, prompt in zip(known, prompts, strict=True)}
    finally:
        servers.pool.close()


def test_another_vocabulary_is_aligned_by_bytes_and_answers_can_be_spared(server_weights: Path, checkpoints, avqa):
    with FakeTeacher(checkpoints[1]) as fake:
        sample = asked(avqa, server_weights, fake, spare_answer=True)["avqa/train/0"][0]
    (body,) = [one for one in fake.scored[:2] if one["token_ids"][-1] == 2]
    assert fake.tokenizer.decode(body["token_ids"]).endswith(SAID + "<|im_end|>")
    ids = sample.token_ids
    assert body["token_ids"][-len(ids) :] != ids  # other ids, the same words
    seen, before = "".join(shown(body)), fake._expanded(body["token_ids"])
    wanted = [score(seen, before[: len(before) - len(ids) + at + 1]) for at in range(len(ids))]
    spared = [math.isnan(one) for one in sample.teacher_logprobs]
    student = AutoProcessor.from_pretrained(server_weights).tokenizer
    assert [student.decode([token]) for token, left_out in zip(ids, spared, strict=True) if left_out] == ["yes"]
    assert [one for one in sample.teacher_logprobs if one == one] == pytest.approx(
        [one for one, left_out in zip(wanted, spared, strict=True) if not left_out]
    )


def test_the_control_shows_the_frames_of_another_clip(server_weights: Path, servers, avqa):
    _, teacher = servers
    data = questions(avqa, processor=str(server_weights))
    data.setup("fit")
    clip = {question.id: question.media for question in data.questions("train")}
    seen = []
    for wrong in (False, True):
        teacher.scored.clear()
        names = list(asked(avqa, server_weights, teacher, wrong_frames=wrong))  # one after another, two requests each
        seen.append({name: shown(teacher.scored[2 * at]) for at, name in enumerate(names)})
    right = {clip[name]: frames for name, frames in seen[0].items()}
    others = derangement(right)
    assert len(right) == 2 and seen[1] == {name: right[others[clip[name]]] for name in clip}


def test_what_the_frames_add(server_weights: Path, servers, avqa):
    _, teacher = servers
    found = asked(avqa, server_weights, teacher, against="blind_teacher")
    without = [body for body in teacher.scored if "content_parts" not in body]
    assert len(without) == 4 * 2 and teacher.picture not in without[0]["token_ids"]
    sample = found["avqa/train/0"][0]
    assert sample.blind_logprobs != sample.teacher_logprobs and not any(map(math.isnan, sample.blind_logprobs))


def test_nothing_is_asked_where_the_checker_accepted_no_trace(tmp_path: Path, server_weights: Path, servers, avqa):
    _, teacher = servers
    lines = [Verdict(f"avqa/train/{n}", 0, accepted=n == 1, checker="c") for n in range(4)]
    (tmp_path / "verdicts.jsonl").write_text("".join(line.to_json() + "\n" for line in lines))
    found = asked(avqa, server_weights, teacher, verdicts=str(tmp_path / "verdicts.jsonl"))
    assert len(teacher.scored) == 2
    silent = {name for name, samples in found.items() if all(map(math.isnan, samples[0].teacher_logprobs))}
    assert silent == found.keys() - {"avqa/train/1"} and len(found) == 4
    refused = [dataclasses.replace(line, accepted=False) for line in lines]
    (tmp_path / "verdicts.jsonl").write_text("".join(line.to_json() + "\n" for line in refused))
    with pytest.raises(UserError, match="none has a trace that the checker accepted"):
        asked(avqa, server_weights, teacher, verdicts=str(tmp_path / "verdicts.jsonl"))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"blind": True}, "parity of seeing failed: replacing the frames of avqa/train/. by noise changes nothing"),
        ({"lost": 1}, "parity of the teacher's frames failed: 3 frames of .* and its model is shown 2 pictures"),
        ({"unseen": 1}, "was sent 3 pictures, and its model was shown 2"),
        ({"changed": 1}, "parity of the teacher's prompts failed: for avqa/train/"),
        ({"version": "other:3"}, "cannot be the teacher: it was given weights 'other:3' by a run"),
    ],
)
def test_teachers_that_are_refused(
    tmp_path: Path, server_weights: Path, servers, avqa, fault: dict[str, Any], sentence: str, monkeypatch
):
    drawing, teacher = servers
    monkeypatch.setattr("callbacks.rollout.rollout_servers.RolloutServers.pass_alone", lambda *_: None)  # fake scores
    for name, value in fault.items():
        setattr(teacher, name, value)
    with pytest.raises(UserError, match=sentence):
        fit(tmp_path, learner(server_weights, teacher), drawing, questions(avqa), parity_gate=True)


def test_the_teacher_needs_servers_of_its_own(tmp_path: Path, server_weights: Path, servers, avqa):
    drawing, _ = servers
    with pytest.raises(UserError, match=r"is in server_urls and in model.distillation.teacher_urls"):
        fit(tmp_path, learner(server_weights, drawing), drawing, questions(avqa))


def test_failures_name_the_question(server_weights: Path, servers, avqa):
    _, teacher = servers
    teacher.behave = lambda route, body: (400, "the prompt is too long") if "content_parts" in (body or {}) else None
    with pytest.raises(ServerError, match=r"question avqa/train/.*scored by the teacher: .*the prompt is too long"):
        asked(avqa, server_weights, teacher)
    failed = []

    def fail_once(route: str, body: Any) -> tuple[int, str] | None:
        if "content_parts" in (body or {}) and not failed:
            failed.append(route)
            return 500, "engine died"
        return None

    teacher.behave = fail_once
    found = asked(avqa, server_weights, teacher)
    assert failed and not any(math.isnan(one) for some in found.values() for s in some for one in s.teacher_logprobs)


def test_clips_without_pictures_are_named(tmp_path: Path, server_weights: Path, servers, avqa):
    drawing, teacher = servers
    with pytest.raises(UserError, match=r"where the clips are is not known of Questions: set model.distillation.clips"):
        module = learner(server_weights, teacher)
        fit(tmp_path, module, drawing, Questions(module.student.processor, 2, 2))
    shutil.copytree(avqa / "videos", tmp_path / "other" / "videos")
    for file in (tmp_path / "other" / "videos").iterdir():
        file.write_bytes(b"no clip at all")
    with pytest.raises(UserError, match=r"avqa/train/.*the teacher cannot be shown its clip"):
        asked(avqa, server_weights, teacher, clips=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"the tokenizer of the teacher at .* cannot be loaded from '/nowhere'"):
        asked(avqa, server_weights, teacher, tokenizer="/nowhere")


def test_a_server_that_comes_back_with_another_teacher_is_refused(
    tmp_path: Path, server_weights: Path, servers, avqa, checkpoints
):
    drawing, teacher = servers

    def restart(route: str, body: Any) -> tuple[int, str] | None:
        if len(teacher.scored) == 4 and route.endswith("generate"):  # after the first batch
            teacher.checkpoint, teacher.behave = checkpoints[1], lambda route, body: None
            return 500, "engine died"
        return None

    teacher.behave = restart
    with pytest.raises(ServerError, match=r"was started again with .*other in place of .*same"):
        fit(tmp_path, learner(server_weights, teacher), drawing, questions(avqa))
