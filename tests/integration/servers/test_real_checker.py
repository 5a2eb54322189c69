"""The checker's stage against a real vLLM server with a tiny Qwen2-Audio: the verdicts are noise, the protocol not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from inference.vllm_server import VLLMServer
from records.records import Trace, Verdict, write_jsonl
from records.request_records import RequestError, Usage
from tests.support.stages import OPTIONS, Stage, records

pytestmark = pytest.mark.server

CHOICE = {"structured_outputs": {"choice": ["yes", "no"]}}
QUESTIONS = range(8)  # two about each of the four clips
Verdicts = dict[tuple[str, int | None], Verdict]


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    write_jsonl(
        tmp_path / "traces" / "rank-00000.jsonl",
        [Trace(f"avqa/train/{q}", s, f"I hear {s + 1} dogs.", OPTIONS[0], "t") for q in QUESTIONS for s in range(2)],
    )
    return tmp_path / "traces"


@pytest.fixture
def check(vllm_server: VLLMServer, run_verify: Stage, server_weights: Path, traces: Path, tmp_path: Path) -> Any:
    """Run the stage with some fields for the checks; returns the verdicts."""

    def run(name: str, fields: dict[str, Any] | None, *more: str, **options: Any) -> Verdicts:
        values = {"endpoint.model": server_weights, "endpoint.timeout": 120, **options}
        if fields is not None:
            values["check_fields"] = json.dumps(fields)
        model = [f"--model.init_args.{option}={value}" for option, value in values.items()]
        run_verify(f"{vllm_server.url}/v1", tmp_path / name, traces, *model, *more)
        assert records(tmp_path / name / "errors", RequestError) == []
        verdicts = {(v.question_id, v.sample): v for v in records(tmp_path / name / "verdicts", Verdict)}
        assert sorted(verdicts) == sorted((f"avqa/train/{q}", s) for q in QUESTIONS for s in range(2))
        spent = records(tmp_path / name / "usage", Usage)
        assert sum(u.prompt_tokens for u in spent) > 16 * 200 and sum(u.completion_tokens for u in spent) > 0
        return verdicts

    return run


def test_structured_answers_and_scored_tokens(check: Any, server_weights: Path, avqa: Path, tmp_path: Path) -> None:
    said = check("said", CHOICE, logprobs="false")
    assert {v.evidence for v in said.values()} <= {("yes",), ("no",)}
    assert all(v.probability == float(v.evidence == ("yes",)) == float(v.accepted) for v in said.values())
    masked = check("masked", CHOICE, logprobs="true")
    tokens = AutoTokenizer.from_pretrained(server_weights).convert_tokens_to_ids(["yes", "no"])
    scored = check("scored", {"logprob_token_ids": tokens}, logprobs="true", max_tokens=1)
    for key, verdict in scored.items():
        assert verdict.probability is not None and 0 < verdict.probability < 1
        # a grammar that admits the two words only divides both probabilities by their sum
        assert masked[key].probability == pytest.approx(verdict.probability, abs=1e-4)
        assert verdict.accepted == masked[key].accepted == (verdict.probability >= 0.5)
    assert len({v.probability for v in scored.values()}) > 8

    swapped = tmp_path / "avqa"
    shutil.copytree(avqa, swapped)
    for clip in range(4):
        shutil.copy(avqa / "videos" / f"clip{clip}.mp4", swapped / "videos" / f"clip{3 - clip}.mp4")
    root = f"--data.init_args.root={swapped}"
    heard = check("swapped", {"logprob_token_ids": tokens}, root, logprobs="true", max_tokens=1)
    assert sum(abs(heard[key].probability - scored[key].probability) > 1e-3 for key in scored) >= 12, "it hears"


def test_unscored_noise_is_no_verdict(check: Any) -> None:
    """Without a grammar the model says anything: neither yes nor no is refused, and never an error."""
    for verdict in check("free", None, logprobs="true").values():
        if verdict.probability is None:
            assert not verdict.accepted and verdict.evidence[0].startswith("neither yes nor no")


def test_claims_are_listed_freely_and_checked_by_choice(check: Any) -> None:
    verdicts = check("claims", CHOICE, mode="claims", logprobs="true", max_list_tokens=48, max_claims=3)
    assert {v.mode for v in verdicts.values()} == {"claims"}
    claimed = [line for v in verdicts.values() for line in v.evidence]
    assert any(line.startswith("yes 0.") for line in claimed)
    assert not any(line.split(": ", 1)[-1] in ("yes", "no") for line in claimed), "the list was forced into yes or no"
