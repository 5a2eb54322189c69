"""The checker's stage against a stub endpoint."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.stub_endpoint import StubEndpoint, text_of
from datamodules.media.audio import load_waveform
from inference.chat_api.chat_endpoint import Choice
from lightning_modules.trace_checker import read_claims, yes_probability
from records.records import Trace, Verdict, write_jsonl
from records.request_records import RequestError
from tests.support.stages import OPTIONS, Stage, records


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Two traces of each of ten questions: the first of each mentions a bell."""
    folder = tmp_path / "traces"
    made = [
        Trace(f"avqa/train/{q}", s, "I hear a bell. I hear rain." if s == 0 else "I hear rain.", OPTIONS[0], "t")
        for q in range(10)
        for s in range(2)
    ]
    write_jsonl(folder / "rank-00000.jsonl", made[:11])
    write_jsonl(folder / "rank-00001.jsonl", made[11:])
    return folder


def no_bells(body: dict[str, Any], index: int) -> str:
    """A checker by the text alone: it lists sentences as claims and hears everything but bells."""
    text = text_of(body)
    if text.startswith("This is a reasoning"):
        return "\n".join(f"- {part.strip()}." for part in text.splitlines()[1].split(".") if part.strip())
    return "No." if "bell" in text else "Yes"


@pytest.mark.parametrize("mode", ["trace", "claims"])
def test_verdicts_with_evidence(run_verify: Stage, tmp_path: Path, traces: Path, avqa: Path, mode: str) -> None:
    with StubEndpoint(answer=no_bells, keep=True) as stub:
        run_verify(stub.url, tmp_path / "out", traces, f"--model.init_args.mode={mode}")
    verdicts = records(tmp_path / "out" / "verdicts", Verdict)
    assert {(v.question_id, v.sample): v.accepted for v in verdicts} == {
        (f"avqa/train/{q}", s): s == 1 for q in range(10) for s in range(2)
    }
    rejected = next(v for v in verdicts if not v.accepted)
    assert rejected.mode == mode and rejected.probability == 0.0 and rejected.checker == "stub"
    assert rejected.evidence == (("no",) if mode == "trace" else ("no: I hear a bell.", "yes: I hear rain."))
    heard = [body for body in stub.bodies if "input_audio" in json.dumps(body)]
    assert len(stub.bodies) - len(heard) == (0 if mode == "trace" else 20)
    audio = heard[0]["messages"][0]["content"][0]["input_audio"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])), dtype="float32")
    clips = [load_waveform(avqa / "videos" / f"clip{c}.mp4") for c in range(4)]
    assert rate == 16_000 and min(np.abs(samples - clip).max() for clip in clips) < 1 / 16_384
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["types"][-1]["accepted"], report["types"][-1]["rejected"]) == (10, 10)


@pytest.mark.parametrize("mode", ["trace", "claims"])
def test_nothing_is_paid_for_a_trace_without_a_thought(run_verify: Stage, tmp_path: Path, mode: str) -> None:
    """It only answers, so there is nothing to verify: it is settled, rejected and counted."""
    thoughts = ("I hear rain.", "", " <think> </think>\n")
    made = [Trace("avqa/train/0", sample, text, OPTIONS[0], "t") for sample, text in enumerate(thoughts)]
    write_jsonl(tmp_path / "traces" / "rank-00000.jsonl", made)
    with StubEndpoint(answer=no_bells, keep=True) as stub:
        for _ in range(2):
            run_verify(stub.url, tmp_path / "out", tmp_path / "traces", f"--model.init_args.mode={mode}")
    assert len(stub.bodies) == (1 if mode == "trace" else 2)
    verdicts = records(tmp_path / "out" / "verdicts", Verdict)
    assert {v.sample: (v.accepted, v.probability) for v in verdicts} == {
        0: (True, 1.0),
        1: (False, None),
        2: (False, None),
    }
    assert {v.evidence for v in verdicts if not v.accepted} == {("no thought",)}
    total = json.loads((tmp_path / "out" / "report.json").read_text())["types"][-1]
    assert (total["traces"], total["thoughtless"], total["accepted"], total["rejected"]) == (3, 2, 1, 2)


def test_verification_is_restartable_under_faults(run_verify: Stage, tmp_path: Path, traces: Path) -> None:
    out = tmp_path / "out"
    with StubEndpoint(answer=no_bells, fault_rate=0.2, hang=0.6) as stub:
        run_verify(stub.url, out, traces, "--data.init_args.limit=6")
        shard = out / "verdicts" / "rank-00000.jsonl"
        shard.write_text(shard.read_text()[:-30])
        run_verify(stub.url, out, traces)
    verdicts = records(out / "verdicts", Verdict)
    assert sorted((v.question_id, v.sample) for v in verdicts) == sorted(
        (f"avqa/train/{q}", s) for q in range(10) for s in range(2)
    )
    assert records(out / "errors", RequestError) == []


def test_further_fields_are_sent_as_they_are_written(run_verify: Stage, tmp_path: Path, traces: Path) -> None:
    body = {"top_k": 5, "min_p": 0.5, "stop": ["no"], "logit_bias": {"7": -100}, "user": "no", "temperature": None}
    choice = {"structured_outputs": {"choice": ["yes", "no"]}}
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(json.dumps({"model": {"init_args": {"endpoint": {"extra_body": body}}}}))
    with StubEndpoint(answer=no_bells, keep=True) as stub:
        options = ["--config", str(overlay), f"--model.init_args.check_fields={json.dumps(choice)}"]
        run_verify(stub.url, tmp_path / "out", traces, "--model.init_args.mode=claims", *options)
    assert len(records(tmp_path / "out" / "verdicts", Verdict)) == 20
    for sent in stub.bodies:
        assert {name: sent.get(name) for name in body} == body and "temperature" not in sent
        listens = "input_audio" in json.dumps(sent["messages"])
        # a choice of yes or no is for the checks; claims are listed freely
        assert sent.get("structured_outputs") == ({"choice": ["yes", "no"]} if listens else None)


def test_the_key_is_sent_and_is_nowhere_on_disk(
    run_verify: Stage,
    tmp_path: Path,
    traces: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in records, reports, saved configurations, W&B's files and logs, even if the endpoint repeats the key."""

    class Talkative(StubEndpoint):
        async def _respond(self, body: dict[str, Any], headers: dict[str, str], writer: Any) -> bool:
            if "number 7?" in text_of(body):
                self._send(writer, 400, {"error": {"message": f"no credit for {headers['authorization'].upper()}"}})
                return True
            return await super()._respond(body, headers, writer)

    monkeypatch.setenv("CHECKER_KEY", "A-VERY-SECRET-KEY")
    caplog.set_level("DEBUG")
    wandb = {"offline": "true", "save_dir": tmp_path, "project": "test"}
    logger = [f"--trainer.logger.init_args.{name}={value}" for name, value in wandb.items()]
    with Talkative(answer=no_bells, keep=True, fault_rate=0.3, faults=("500", "429")) as stub:
        options = ["--model.init_args.endpoint.api_key_env=CHECKER_KEY", "--trainer.logger=WandbLogger", *logger]
        run_verify(stub.url, tmp_path / "out", traces, *options)
    assert {h["authorization"] for h in stub.headers} == {"bearer a-very-secret-key"}
    refused = records(tmp_path / "out" / "errors", RequestError)
    assert {e.question_id for e in refused} == {"avqa/train/7"} and all("no credit for" in e.message for e in refused)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"report.json", "predict.yaml", "rank-00000.jsonl"} <= {file.name for file in files}
    assert any(file.suffix == ".wandb" for file in files)
    for file in files:
        assert b"very-secret" not in file.read_bytes().lower(), file
    out = capfd.readouterr()
    assert "very-secret" not in (out.out + out.err + caplog.text).lower()


def first(*candidates: tuple[str, float]) -> Choice:
    return Choice("", first_token=tuple((token, math.log(p)) for token, p in candidates))


def test_probability_of_yes() -> None:
    assert yes_probability(first(("Yes", 0.5), (" yes", 0.1), ("no", 0.2), ("maybe", 0.1)))[0] == pytest.approx(0.75)
    assert yes_probability(first(("No", 0.9)))[0] == 0.0
    # "yes" is hardly likelier than "no", which is not among the candidates: the answer counts
    assert yes_probability(Choice("The dog barks.", first_token=(("The", -0.01), ("yes", -9.0))))[0] is None
    assert yes_probability(Choice("The dog barks: no", first_token=(("The", -0.01), ("yes", -9.0)))) == (0.0, "no")
    assert yes_probability(Choice("Yes, it does.")) == (1.0, "yes")
    assert yes_probability(Choice("no")) == (0.0, "no")
    assert yes_probability(Choice("Not at all; nothing is known"))[0] is None
    assert yes_probability(Choice("yes and no"))[0] is None
    assert yes_probability(Choice("Yes", first_token=(("The", -0.1),))) == (1.0, "yes")


@pytest.mark.parametrize(
    "text",
    [
        "Is it fitting? I would not say yes.",
        "I can't say yes.",
        "I can’t say yes",
        "I cannot answer with yes here",
        "Neither yes nor no.",
        "I would never say yes to this",
        "Yes would be wrong.",
        'A "yes" is incorrect.',
        "The answer is not no.",
        "我不能说 yes",
        "不是 yes",
        "I am unable to say yes",
        "It isn't a yes.",
    ],
)
def test_a_negated_word_is_no_verdict(text: str) -> None:
    assert yes_probability(Choice(text)) == (None, f"neither yes nor no: {text!r}")


@pytest.mark.parametrize(
    ("text", "probability"),
    [
        ("No, it does not fit.", 0.0),
        ("No. I do not hear a bell.", 0.0),
        ("**Yes**, the bell is not missing.", 1.0),
        ("It is not silent. Yes.", 1.0),
        ("The answer is: yes", 1.0),
        ("My answer is yes", 1.0),
    ],
)
def test_a_negation_beside_the_verdict_does_not_hide_it(text: str, probability: float) -> None:
    assert yes_probability(Choice(text))[0] == probability


def test_claims_are_read_line_by_line() -> None:
    assert read_claims("Claims:\n- a bell rings\n2) rain falls\n\n- a bell rings\n") == ["a bell rings", "rain falls"]
    assert read_claims("None.") == []
