"""The rows of Qwen2.5-Omni against a real vLLM server with a tiny one: the answers are noise, the protocol is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.vllm_server import VLLMServer
from records.records import Prediction, read_jsonl
from tests.support.tiny_omni import CHAT, build
from train import main

pytestmark = pytest.mark.server

NAME = "tiny-omni"
SPEAKS = json.dumps({"allowed_token_ids": list(range(40, 120))})
"""The weights are noise over more tokens than the tokenizer has; these are bytes that can be read."""
# with eyes
TEMPLATE = CHAT.replace(
    "{% elif 'text' in part %}",
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>{% elif 'text' in part %}",
)


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    folder = tmp_path_factory.mktemp("omni")
    (folder / "chat.jinja").write_text(TEMPLATE)
    limits = '{"image": 8, "video": 1, "audio": 1}'
    extra = [
        "--served-model-name",
        NAME,
        "--limit-mm-per-prompt",
        limits,
        "--chat-template",
        str(folder / "chat.jinja"),
    ]
    weights = build(folder / "weights")
    with VLLMServer(weights, max_num_seqs=8, max_model_len=1024, log_file=folder / "log", extra=extra) as server:
        yield server


def answers(omni: VLLMServer, avqa: Path, out: Path, row: str, *more: str) -> tuple[list[Prediction], int]:
    values = {
        "trainer.default_root_dir": out,
        "trainer.enable_progress_bar": "false",
        "model.init_args.endpoint.base_url": f"{omni.url}/v1",
        "model.init_args.endpoint.model": NAME,
        "model.init_args.max_tokens": 12,
        "model.init_args.endpoint.extra_body": SPEAKS,
        "data.init_args.root": avqa,
        "data.init_args.num_workers": 0,
        "data.init_args.requests.frames.count": 4,
        "data.init_args.requests.frames.max_side": 56,
    }
    names = ("benchmark/avqa.yaml", "benchmark/endpoint.yaml", f"benchmark/rows/{row}.yaml")
    configs = [f"--config={name}" for name in names]
    main(["test", *configs, *(f"--{name}={value}" for name, value in values.items()), *more])
    report = json.loads((out / "report.json").read_text())
    assert report["errors"].keys() <= {"empty reply"} and report["requests"] == report["questions"] == 4
    return list(read_jsonl(out / "predictions.jsonl", Prediction)), report["prompt_tokens"]


def test_it_sees_and_hears(omni: VLLMServer, avqa: Path, tmp_path: Path) -> None:
    both, tokens = answers(omni, avqa, tmp_path / "both", "qwen2.5-omni-3b-audio-video")
    deaf, same = answers(omni, avqa, tmp_path / "deaf", "qwen2.5-omni-3b-audio-video", "--data.init_args.probe=silence")
    assert same == tokens and [p.completion for p in deaf] != [p.completion for p in both], "it hears"
    seen, seen_tokens = answers(omni, avqa, tmp_path / "video", "qwen2.5-omni-3b-video")
    heard, heard_tokens = answers(omni, avqa, tmp_path / "audio", "qwen2.5-omni-3b-audio")
    assert {p.modalities for p in seen + heard + both} == {"audio", "video", "audio_video"}
    answers(omni, avqa, tmp_path / "images", "qwen2.5-omni-3b-audio-video", "--model.init_args.send=images")
    assert seen_tokens > 0 and heard_tokens > 0
