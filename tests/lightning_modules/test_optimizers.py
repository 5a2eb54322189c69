"""Which AdamW a student is trained by."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lightning_modules.optimizers import check_optimizer, make_optimizer, set_again, settings_of
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


def scheduled(lr: float, weight_decay: float, steps: int, schedule) -> tuple:
    """An optimizer of two groups and its schedule after some steps."""
    weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))]
    each = [{"params": [weights[0]], "weight_decay": weight_decay}, {"params": [weights[1]], "weight_decay": 0.0}]
    optimizer = make_optimizer("adamw", each, lr, scaled=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    settings = settings_of(optimizer)
    for _ in range(steps):
        sum(weight.sum() for weight in weights).backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler, settings


def test_settings_count_over_those_of_a_checkpoint_and_moments_stay() -> None:
    optimizer, scheduler, _ = scheduled(0.1, 0.2, 3, lambda step: 1 / (1 + step))
    state = optimizer.state_dict(), scheduler.state_dict()
    again, its_scheduler, settings = scheduled(0.8, 0.0, 0, lambda step: 1 / (1 + step))
    again.load_state_dict(state[0])
    its_scheduler.load_state_dict(state[1])
    set_again(again, its_scheduler, settings)
    assert [(g["initial_lr"], g["lr"], g["weight_decay"]) for g in again.param_groups] == [(0.8, 0.2, 0.0)] * 2
    assert its_scheduler.get_last_lr() == [0.2, 0.2]
    for weight in (group["params"][0] for group in again.param_groups):
        assert again.state[weight]["step"] == 3
    again.step()
    its_scheduler.step()
    assert its_scheduler.get_last_lr() == [pytest.approx(0.16)] * 2


def test_unchanged_settings_change_no_bit() -> None:
    optimizer, scheduler, settings = scheduled(3e-3, 0.1, 3, lambda step: min(1.0, step / 7))
    before = repr((optimizer.state_dict(), scheduler.state_dict()))
    set_again(optimizer, scheduler, settings)
    assert repr((optimizer.state_dict(), scheduler.state_dict())) == before


def test_settings_that_are_tensors_stay_tensors() -> None:
    """As torchao keeps the learning rate, for compiled steps."""
    optimizer, scheduler, _ = scheduled(0.1, 0.0, 0, lambda step: 0.5)
    kept = torch.tensor(0.05)
    for group in optimizer.param_groups:
        group["lr"] = kept
    set_again(optimizer, scheduler, [{"initial_lr": 0.4, "weight_decay": 0.0}] * 2)
    assert optimizer.param_groups[0]["lr"] is kept and kept == pytest.approx(0.2)
