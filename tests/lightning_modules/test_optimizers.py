"""Which AdamW a student is trained by."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lightning_modules.optimizers import check_optimizer, make_optimizer
from runtime.errors import UserError


def groups() -> list[dict]:
    return [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "weight_decay": 0.1}]


def test_without_torchao_8_bits_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"adamw8bit needs torchao.*pip install torchao"):
        check_optimizer("adamw8bit")
    with pytest.raises(UserError, match=r"'sgd' is unknown: use adamw or adamw8bit"):
        check_optimizer("sgd")


def test_with_torchao_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class AdamW8bit(torch.optim.AdamW):
        pass

    module = ModuleType("torchao.optim")
    module.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.optim", module)
    check_optimizer("adamw8bit")
    made = make_optimizer("adamw8bit", groups(), 1e-3, scaled=False)
    assert isinstance(made, AdamW8bit)
    assert made.param_groups[0]["lr"] == 1e-3 and made.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("device", "scaled", "fused"), [("cuda", False, True), ("cuda", True, None), ("cpu", False, None)]
)
def test_one_kernel_on_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str, scaled: bool, fused: bool | None) -> None:
    """Fused kernels undo a scaled loss by themselves, after the gradients were clipped."""
    seen: list[bool | None] = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, lr, fused=None: seen.append(fused))
    make_optimizer("adamw", [{"params": [SimpleNamespace(device=torch.device(device))]}], 1e-3, scaled)
    assert seen == [fused]
