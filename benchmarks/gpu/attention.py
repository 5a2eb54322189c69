"""Which attention serves ``[all prompts | all completions]`` best: forward and backward of one layer.

Each way takes the packed queries, keys and values ``[1, heads, N, d]`` and returns ``[1, N, heads, d]``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.split_attention import Segments, repeated_keys_attention, split_attention
from benchmarks.gpu.work import Record, Work, new_batch
from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.shared_prompt import PackedGroups, pack_groups, shared_prompt_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
CHECKED_HEADS = 2
"""Heads that are compared with float32: all of them would take many GB for the dense scores."""


def measure(work: Work, record: Record) -> None:
    """Time the present attention, its two halves under each kernel, and the ways without padding or mask."""
    device = Device(work.device)
    case = Case(work)
    record.add(tokens=case.length, questions=case.questions, group=work.group, completion_tokens=work.tokens)
    truth = case.truth()
    for name, way in case.ways().items():
        record.append("whole", {"way": name, **attempt(partial(case.timed, device, way, truth))})
        device.free()
    for half, (attend, inputs) in case.halves().items():
        for name, kernel in KERNELS.items():

            def forced(*inputs: Tensor, attend: Any = attend, kernel: SDPBackend = kernel) -> Tensor:
                with sdpa_kernel([kernel]):
                    return attend(*inputs)

            found = attempt(partial(_time, device, forced, inputs))
            record.append("halves", {"half": half, "kernel": name, **found})
            device.free()


def measure_flex(work: Work, record: Record) -> None:
    """Time PyTorch's flexible attention over the whole packed row, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    device = Device(work.device)
    case = Case(work)
    segments, n = case.segments, case.length
    question, completion, place = segments.question, segments.completion, segments.place

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        earlier = place[k] <= place[q]
        alike = completion[q] == completion[k]
        asked = (completion[k] < 0) & (completion[q] >= 0)
        return (question[q] == question[k]) & ((alike & earlier) | asked)

    def blocks() -> Any:
        return create_block_mask(sees, None, None, n, n, device=work.device)

    record.add(block_mask_ms=device.milliseconds(blocks, 5, 1))
    mask = blocks()
    record.add(sparsity=round(float(mask.sparsity()), 2))
    compiled = torch.compile(flex_attention, dynamic=False) if device.cuda else flex_attention

    def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        out: Tensor = compiled(q, k, v, block_mask=mask, scale=case.scale, enable_gqa=grouped)
        return out.transpose(1, 2)

    truth = case.truth()
    if not device.cuda:  # no backward pass there
        case.inputs = tuple(x.detach() for x in case.inputs)
    record.append("whole", {"way": "flex", **attempt(lambda: case.timed(device, way, truth))})


class Case:
    """Queries, keys and values of one layer for a batch of questions, and what they must give."""

    def __init__(self, work: Work) -> None:
        """Draw them."""
        shape = work.shape
        self.work = work
        self.questions = min(4, work.largest)
        batch: AudioQABatch = new_batch(work, self.questions)
        done = batch.completions
        assert done is not None
        self.segments = Segments.of(batch.prompt_lengths, done.lengths).to(work.device)
        moved = batch.to(work.device)
        assert moved.completions is not None
        self.packed: PackedGroups = pack_groups(
            moved.prompt_ids, moved.prompt_lengths, moved.completions.ids, moved.completions.lengths
        )
        self.length = self.packed.ids.shape[1]
        width = shape.width // shape.heads
        self.scale = width**-0.5
        torch.manual_seed(work.seed)
        heads = (shape.heads, shape.key_heads, shape.key_heads)
        self.inputs: tuple[Tensor, ...] = tuple(
            torch.randn(1, self.length, n, width, device=work.device, dtype=work.torch_dtype)
            .transpose(1, 2)  # as projections leave them
            .requires_grad_()
            for n in heads
        )
        self.gradient = torch.randn(1, self.length, shape.heads, width, device=work.device, dtype=work.torch_dtype)

    def present(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend as the student does."""
        module = nn.Identity()
        return shared_prompt_attention(module, q, k, v, None, self.scale, shared_prompt=self.packed.layout)[0]

    def split(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to prompts and to own tokens apart, merged by the log-sum-exp; no mask, padding or repeated keys."""
        return split_attention(q, k, v, self.segments, self.scale)

    def repeated(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend in one call over sequences ``[prompt | own tokens]``; no mask, no padding, keys repeated."""
        return repeated_keys_attention(q, k, v, self.segments, self.scale)

    def ways(self) -> dict[str, Attention]:
        """Return what is timed as a whole; what calls kernels directly comes last."""
        return {
            "present": self.present,
            **{f"present, {name}": self._allowing(kernel) for name, kernel in KERNELS.items() if name != "flash"},
            "repeated keys, flash": self.repeated,
            "split, flash": self.split,
        }

    def _allowing(self, kernel: SDPBackend) -> Attention:
        """Attend as the student does; the half without a mask may take flash, the other must take ``kernel``."""

        def way(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel([SDPBackend.FLASH_ATTENTION, kernel]):
                return self.present(q, k, v)

        return way

    def halves(self) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
        """Return the two calls that the present attention consists of, with inputs of their shapes."""
        layout, shape = self.packed.layout, self.work.shape
        attend = nn.functional.scaled_dot_product_attention
        grouped = shape.heads != shape.key_heads

        def drawn(rows: int, heads: int, length: int) -> Tensor:
            return torch.randn(
                rows, heads, length, shape.width // shape.heads, device=self.work.device, dtype=self.work.torch_dtype
            ).requires_grad_()

        asked = tuple(drawn(layout.batch, n, layout.prompt) for n in (shape.heads, shape.key_heads, shape.key_heads))
        rows, keys = layout.batch * layout.group, layout.prompt + layout.completion
        answered = (
            drawn(rows, shape.heads, layout.completion),
            *(drawn(rows, shape.key_heads, keys) for _ in range(2)),
        )
        return {
            "prompts, causal": (partial(attend, is_causal=True, enable_gqa=grouped), asked),
            "completions, mask": (partial(attend, attn_mask=layout.mask, enable_gqa=grouped), answered),
        }

    def truth(self) -> list[Tensor]:
        """Return output and gradients of the first heads by dense float32 arithmetic with a mask made on its own."""
        shape = self.work.shape
        shared = shape.heads // shape.key_heads
        heads = max(1, CHECKED_HEADS // shared) * shared
        counts = (heads, heads // shared, heads // shared)
        q, k, v = (x.detach()[:, :n].float().requires_grad_() for x, n in zip(self.inputs, counts, strict=True))
        scores = q @ k.repeat_interleave(shared, 1).transpose(-1, -2) * self.scale
        scores = scores.masked_fill(~self.segments.dense(), float("-inf"))
        out = (scores.softmax(-1) @ v.repeat_interleave(shared, 1)).transpose(1, 2)
        given = torch.autograd.grad(out, (q, k, v), self.gradient[:, :, :heads].float())
        return [out.detach(), *given]

    def timed(self, device: Device, way: Attention, truth: list[Tensor]) -> dict[str, Any]:
        """Return times, memory and the relative error of output and gradients."""
        out = way(*self.inputs)
        results = [out, *torch.autograd.grad(out, self.inputs, self.gradient)] if out.requires_grad else [out]
        names = ("output", "q", "k", "v")
        errors = {}
        for name, found, exact in zip(names, results, truth, strict=False):
            mine = found.detach()[tuple(slice(n) for n in exact.shape)].float()
            errors[name] = float(f"{float((mine - exact).norm() / exact.norm()):.2e}")
        del out, results
        device.free()
        return {"errors": errors, **_time(device, way, self.inputs, self.gradient)}


def _time(
    device: Device, way: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor | None = None
) -> dict[str, Any]:
    forward = device.milliseconds(lambda: way(*inputs))
    if not inputs[0].requires_grad:
        return {"forward_ms": forward}
    given = torch.randn_like(way(*inputs)) if gradient is None else gradient

    def both() -> None:
        torch.autograd.grad(way(*inputs), inputs, given)

    before = device.allocated()
    device.begin_peak()
    found = device.milliseconds(both)
    return {
        "forward_ms": forward,
        "forward_backward_ms": found,
        "extra_gb": round(device.peak()["peak_gb"] - before, 3),
    }
