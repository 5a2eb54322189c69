"""What a decoder layer computes element by element on a GPU, in one pass over memory each: norm, gate, rotation.

transformers computes each as five to eight kernels, which took a third of a step's time on an H200, and keeps what lies
between them for the backward pass, in float32 for the norm. Here the forward pass keeps its inputs, and both passes are
compiled by ``torch.compile`` where that works, and are eager where it does not. On the CPU transformers' own are used.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


def on_gpu(x: Tensor) -> bool:
    """Return whether a tensor is where this pays."""
    return x.is_cuda


def norm_forward(x: Tensor, weight: Tensor, eps: float) -> Pair:
    """Return ``weight * x / rms(x)``, and ``1 / rms(x)`` in float32."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype), scale


def norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Pair:
    """Return the gradients of the input, and of the weight before it is summed over the rows."""
    normed = x.float() * scale
    inside = gradient.float() * weight.float()
    of_input = scale * (inside - normed * (inside * normed).mean(-1, keepdim=True))
    return of_input.to(x.dtype), gradient.float() * normed


def norm_input_backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of the input alone."""
    return norm_backward(gradient, x, weight, scale)[0]


def gate_forward(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``."""
    return nn.functional.silu(gate) * up


def gate_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> Pair:
    """Return the gradients of both."""
    wide, outside = gate.float(), gradient.float()
    open_ = torch.sigmoid(wide)
    of_gate = outside * up.float() * open_ * (1 + wide * (1 - open_))
    return of_gate.to(gate.dtype), (outside * wide * open_).to(up.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return a rotary embedding ``[..., N, D]`` of ``x``; the halves of ``cos`` and ``sin`` are alike."""
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    c, s = cos[..., :half], sin[..., :half]
    return torch.cat([low * c - high * s, high * c + low * s], -1)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = best(norm_forward, x)(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return best(norm_input_backward, x)(gradient, x, weight, scale), None, None
        of_input, of_weight = best(norm_backward, x)(gradient, x, weight, scale)
        return of_input, of_weight.flatten(0, -2).sum(0).to(weight.dtype), None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return best(gate_forward, gate)(gate, up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Pair:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        return best(gate_backward, gate)(gradient, gate, up)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return best(rotate, x)(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return best(rotate, gradient)(gradient, cos, -sin), None, None


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """Compute what a norm of a language model computes, ``[..., D]``.

    Args:
        module: Has ``weight`` ``[D]`` and ``variance_epsilon``.
        x: Its input.
    """
    return _Norm.apply(x, module.weight, module.variance_epsilon)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Return ``silu(gate) * up``."""
    return _Gate.apply(gate, up)


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Pair:
    """Return queries and keys ``[B, H, N, D]`` under a rotary embedding.

    Args:
        q: Queries.
        k: Keys.
        cos: ``[B, 1, N, D]``, its halves alike.
        sin: Likewise.
    """
    return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)


def best(work: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """Return a computation as it is quickest where ``x`` is."""
    return compiled(work) if x.is_cuda and compiler_works(x.device) else work


@functools.cache
def compiled(work: Callable[..., Any]) -> Callable[..., Any]:
    """Return a computation compiled for all lengths of its operands."""
    return torch.compile(work, dynamic=True)


@functools.cache
def compiler_works(device: torch.device) -> bool:
    """Return whether ``torch.compile`` does its work here; it needs Triton and a C compiler."""
    try:
        compiled(gate_forward)(*torch.ones(2, 3, 8, device=device, dtype=torch.bfloat16))
    except Exception as error:
        rank_zero_info(
            f"Norms, gates and rotations are computed without torch.compile, which fails here "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}): a C compiler (gcc) "
            "makes training faster"
        )
        return False
    return True
