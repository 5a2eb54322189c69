"""LoRA folded into the weight gives peft's own results."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lightning_modules.models.merged_lora import MergedLoRALinear


def adapted(custom: bool, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)).to(dtype)
    config = LoraConfig(r=2, lora_alpha=3, lora_dropout=dropout, target_modules=["0", "2"])
    if custom:
        config._register_custom_module({nn.Linear: MergedLoRALinear})
    model = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data.copy_(torch.randn(p.shape, generator=generator))
    return model


def results(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = x.clone().requires_grad_()
    out = model(x)
    (out.float() * torch.arange(out.numel()).view_as(out)).sum().backward()
    return out, [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("tokens", [1, 30], ids=["few tokens: beside the weight", "many tokens: in the weight"])
def test_outputs_and_gradients_are_those_of_peft(tokens: int) -> None:
    x = torch.randn(2, tokens, 6)
    ours, theirs = adapted(True), adapted(False)
    assert isinstance(ours.base_model.model[0], MergedLoRALinear)
    out, gradients = results(ours, x)
    expected, expected_gradients = results(theirs, x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert len(gradients) == len(expected_gradients) == 5
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_one_number_by_hand() -> None:
    """W = 2, A = 3, B = 5, scale 1, x = 7: y = (2 + 5 * 3) * 7; dy/dx = 17, dy/dA = B x = 35, dy/dB = A x = 21."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["0"])
    config._register_custom_module({nn.Linear: MergedLoRALinear})
    model = get_peft_model(model, config)
    layer = model.base_model.model[0]
    layer.base_layer.weight.data.fill_(2.0)
    layer.lora_A["default"].weight.data.fill_(3.0)
    layer.lora_B["default"].weight.data.fill_(5.0)
    x = torch.tensor([[7.0]], requires_grad=True)
    y = model(x)
    y.sum().backward()
    assert (y.item(), x.grad.item()) == (119.0, 17.0)
    assert layer.lora_A["default"].weight.grad.item() == 35.0
    assert layer.lora_B["default"].weight.grad.item() == 21.0


def test_low_precision_weights_do_not_swallow_the_adapter() -> None:
    """W = 1 everywhere, s B A = 1e-3 on the first input: folded, 1.001 would be 1 in bfloat16.

    For x = (1, -1, 0, ...) the base gives 0 and the adapter s * (2 ranks) * B * A = 1.5 * 2 * 1e-3 / 3 = 1e-3.
    """
    layer = adapted(True, dtype=torch.bfloat16).base_model.model[0]
    assert layer.lora_A["default"].weight.dtype == torch.float32
    layer.base_layer.weight.data.fill_(1.0)
    layer.base_layer.bias.data.zero_()
    layer.lora_A["default"].weight.data.zero_()[:, 0] = 1.0
    layer.lora_B["default"].weight.data.fill_(1e-3 / 3)
    x = torch.tensor([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    torch.testing.assert_close(layer(x).float(), torch.full((1, 5), 1e-3), rtol=1e-2, atol=0)


def test_low_precision_gradients_are_close_to_those_of_peft() -> None:
    x = torch.randn(2, 30, 6).bfloat16()
    _, gradients = results(adapted(True, dtype=torch.bfloat16), x)
    _, expected = results(adapted(False, dtype=torch.bfloat16), x)
    for got, wanted in zip(gradients, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert (got - wanted).float().norm() / wanted.float().norm() < 2e-2


def test_autocast_to_the_weights_type_changes_nothing() -> None:
    """No detour over float32, which would be cast back at once."""
    x = torch.randn(2, 30, 6).bfloat16()
    expected = results(adapted(True, dtype=torch.bfloat16), x)
    with torch.autocast("cpu", torch.bfloat16):
        out, gradients = results(adapted(True, dtype=torch.bfloat16), x)
    assert torch.equal(out, expected[0])
    assert all(torch.equal(got, wanted) for got, wanted in zip(gradients, expected[1], strict=True))


def test_without_adapters_it_is_the_base_layer() -> None:
    model = adapted(True)
    x = torch.randn(50, 6)
    with model.disable_adapter():
        plain = model(x)
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    torch.testing.assert_close(plain, base(x))


def test_dropout_is_left_to_peft() -> None:
    ours, theirs = adapted(True, dropout=0.5), adapted(False, dropout=0.5)
    x = torch.randn(50, 6)
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(5)
        outputs.append(model(x))
    torch.testing.assert_close(*outputs)
