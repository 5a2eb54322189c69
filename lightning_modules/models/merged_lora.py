"""LoRA layers with fewer passes over memory than peft's, and the same result."""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class MergedLoRALinear(Linear):
    """peft's LoRA layer with another way to the same result.

    peft computes ``x W' + s (x A') B'``, which costs several passes over the output. Folding first, ``x (W + s B A)'``,
    costs one product of the adapter's small matrices; in float32, and for more tokens than input features, that is
    the quickest. Weights of low precision would swallow the adapter, so there it is added to the output within one
    matrix product, in the weights' type (peft computes it in float32 and casts the whole output twice), also under
    autocast to this type. In both ways gradients reach A and B without that of W ever being formed. Everything else is
    left to peft: dropout, weights that autocast casts.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        base = self.get_base_layer()
        active = self.active_adapters
        name = active[0] if active else ""
        autocast = torch.is_autocast_enabled(x.device.type)
        if (
            self.disable_adapters
            or self.merged
            or len(active) != 1
            or args
            or kwargs
            or not isinstance(self.lora_dropout[name], nn.Identity)
            or base.weight.requires_grad
            or base.weight.dtype != x.dtype
            or (autocast and torch.get_autocast_dtype(x.device.type) != x.dtype)
        ):
            return super().forward(x, *args, **kwargs)
        exact = x.dtype == torch.float32
        if exact and x.numel() < base.in_features**2:
            return super().forward(x)
        down, up = (layer[name].weight.to(x.dtype) for layer in (self.lora_A, self.lora_B))
        way = _FoldedLoRA if exact else _AdditiveLoRA
        adapted: Tensor = way.apply(x, base.weight, base.bias, down, up, self.scaling[name])
        return adapted


class _FoldedLoRA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scaling = scaling
        return nn.functional.linear(x, torch.addmm(weight, up, down, alpha=scaling), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, down, up = ctx.saved_tensors
        rows, given = x.flatten(0, -2), gradient.flatten(0, -2)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (given @ torch.addmm(weight, up, down, alpha=ctx.scaling)).view_as(x)
        of_down = (given @ up).T @ rows * ctx.scaling
        of_up = given.T @ (rows @ down.T) * ctx.scaling
        return of_x, None, None, of_down, of_up, None


class _AdditiveLoRA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        low = x.flatten(0, -2) @ down.T
        ctx.save_for_backward(x, low, weight, down, up)
        ctx.scaling = scaling
        out = nn.functional.linear(x, weight, bias)
        out.flatten(0, -2).addmm_(low, up.T, alpha=scaling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, low, weight, down, up = ctx.saved_tensors
        rows, given = x.flatten(0, -2), gradient.flatten(0, -2)
        of_low = given @ up * ctx.scaling
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = torch.addmm(given @ weight, of_low, down).view_as(x)
        return of_x, None, None, of_low.T @ rows, given.T @ low * ctx.scaling, None
