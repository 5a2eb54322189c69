"""Language models whose packed batches would be scored wrongly are refused, each with its reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Qwen2Config

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.plain_attention import check_plain_attention
from lightning_modules.models.shared_prompt import pack_groups, shared_prompt_attention
from lightning_modules.models.student import Student


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding windows"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding windows"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"attn_logit_softcapping": 50.0}, "soft caps on its attention scores"),
        ({"final_logit_softcapping": 30.0}, "soft caps on its logits"),
        ({"num_kv_shared_layers": 1}, "layers that share keys and values"),
        ({"final_logit_softcapping": 30.0, "num_kv_shared_layers": 1}, "logits and layers that share keys"),
    ],
)
def test_what_is_not_computed_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(WeightsError, match=f"of weights/x has .*{reason}.*, which the shared-prompt attention"):
        check_plain_attention(Qwen2Config(num_hidden_layers=2, **fields), "weights/x")


def test_plain_layers_pass() -> None:
    check_plain_attention(Qwen2Config(num_hidden_layers=2), "")
    check_plain_attention(Qwen2Config(num_hidden_layers=2, use_sliding_window=False, sliding_window=8), "")


def test_a_checkpoint_with_windows_is_no_student(weights: str, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "windows")
    config = json.loads((tmp_path / "windows" / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    config["text_config"].pop("layer_types", None)
    (tmp_path / "windows" / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="has sliding windows"):
        Student(str(tmp_path / "windows"))


@pytest.mark.parametrize("asked", [{"sliding_window": 4}, {"softcap": 50.0}])
def test_a_layer_that_asks_for_more_is_refused(asked: dict[str, float]) -> None:
    """Whatever the configuration called it."""
    ids = torch.tensor([[1, 2]])
    layout = pack_groups(ids, ids.new_tensor([2]).numpy(), ids[:, None], ids.new_tensor([[2]]).numpy()).layout
    x = torch.zeros(1, 1, 4, 2)
    shared_prompt_attention(nn.Identity(), x, x, x, None, shared_prompt=layout)
    with pytest.raises(ValueError, match="does not compute"):
        shared_prompt_attention(nn.Identity(), x, x, x, None, shared_prompt=layout, **asked)
