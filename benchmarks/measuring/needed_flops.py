"""Floating-point operations that a step needs: each clip and each prompt once, the head on completion tokens only."""

import time

import torch

from benchmarks.measuring.shapes import Shape
from datamodules.batching.audio_tokens import audio_token_counts
from datamodules.batching.batch import AudioQABatch

GPU_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second, from the vendor's data sheets."""


def layer_weights(shape: Shape) -> int:
    """Return the weights of the linear layers of one layer of the language model."""
    head = shape.width // shape.heads
    return shape.width * (2 * shape.width + 2 * shape.key_heads * head) + 3 * shape.width * shape.mlp


def forward_flops(shape: Shape, batch: AudioQABatch) -> tuple[float, float]:
    """Return the operations of one forward pass: language model (attention included) and head."""
    done = batch.completions
    assert done is not None
    prompts = batch.prompt_lengths.astype(float)
    lengths = done.lengths.astype(float)  # [B, G]
    tokens = float(prompts.sum() + lengths.sum())
    pairs = float((prompts**2 / 2).sum() + (lengths * prompts[:, None] + lengths**2 / 2).sum())
    language = 2 * tokens * layer_weights(shape) * shape.layers + 4 * pairs * shape.width * shape.layers
    return language, 2 * float(lengths.sum()) * shape.width * shape.vocabulary


def audio_flops(shape: Shape, batch: AudioQABatch) -> float:
    """Return the operations of hearing each clip once, as long as it is."""
    width = shape.audio_width
    positions, tokens = (n.astype(float) for n in audio_token_counts(batch.feature_lengths))
    linear = float(positions.sum()) * 2 * 12 * width**2 * shape.audio_layers
    attention = float((positions**2).sum()) * 4 * width * shape.audio_layers
    convolutions = float(positions.sum()) * 2 * 3 * (2 * 128 * width + width**2)
    return linear + attention + convolutions + float(tokens.sum()) * 2 * width * shape.width


def grpo_flops(shape: Shape, batch: AudioQABatch) -> float:
    """Return the operations of a learner step with adapters: two forward passes, gradients of the activations."""
    language, head = forward_flops(shape, batch)
    return audio_flops(shape, batch) + 3 * (language + head)


def sft_flops(shape: Shape, batch: AudioQABatch) -> float:
    """Return the operations of an SFT step with adapters."""
    language, head = forward_flops(shape, batch)
    return audio_flops(shape, batch) + 2 * (language + head)


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Return operations per second: a GPU's from its data sheet, otherwise those of a large matrix product."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        for known, peak in GPU_PEAKS.items():
            if known in name:
                return peak
    size = 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
