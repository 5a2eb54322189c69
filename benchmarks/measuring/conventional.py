"""The conventional step, literally: the unmodified model, one row for each completion, 30 s of audio, full logits.

It is what the learner is measured against, and the oracle that it must equal.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2AudioForConditionalGeneration

from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.architectures.qwen2_audio import LANGUAGE_MODEL_LINEARS
from lightning_modules.objectives.losses import grpo_loss

IGNORED = -100


@dataclass
class Rows:
    """A batch as ``model(**inputs)`` takes it: B * G rows.

    Attributes:
        inputs: Arguments of the model.
        labels: Token ids, -100 where nothing is learned ``[B * G, L]``.
        mask: The batch's completion mask ``[B, G, C]``.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> "Rows":
        """Return a copy on ``device``."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return Rows(inputs, self.labels.to(device), self.mask.to(device))


def with_adapters(
    model: Qwen2AudioForConditionalGeneration, rank: int = 8, alpha: int = 16, checkpointing: bool = False
) -> PeftModel:
    """Add peft's own adapters to the language model's linear layers."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=LANGUAGE_MODEL_LINEARS)
    model.config.use_cache = model.config.get_text_config().use_cache = False
    adapted = get_peft_model(model, config).train()
    if checkpointing:
        adapted.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        adapted.enable_input_require_grads()
    return adapted


def rows_of(processor: Any, batch: AudioQABatch) -> Rows:
    """Make one right-padded row of each completion."""
    done = batch.completions
    assert done is not None
    group = done.ids.shape[1]
    rows, labels = [], []
    for b in range(len(batch)):
        prompt = batch.prompt_ids[b, : batch.prompt_lengths[b]]
        for g in range(group):
            target = done.ids[b, g][done.mask[b, g]]
            rows.append(torch.cat([prompt, target]))
            labels.append(torch.cat([torch.full_like(prompt, IGNORED), target]))
    padded = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    return Rows(_inputs(processor, batch, rows, group, "right"), padded, done.mask)


def prompts_of(processor: Any, batch: AudioQABatch, group: int) -> dict[str, Tensor]:
    """Make ``group`` left-padded rows of each prompt, as ``generate`` takes them."""
    rows = [batch.prompt_ids[b, : batch.prompt_lengths[b]] for b in range(len(batch)) for _ in range(group)]
    return _inputs(processor, batch, rows, group, "left")


def _inputs(processor: Any, batch: AudioQABatch, rows: list[Tensor], group: int, side: str) -> dict[str, Tensor]:
    """Pad rows of token ids and give each its own copy of the 30 s of mel features."""
    audio = processor.feature_extractor(
        batch.waveforms, sampling_rate=16_000, return_attention_mask=True, padding="max_length", return_tensors="pt"
    )
    mask = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_side=side),
        "attention_mask": pad_sequence(mask, batch_first=True, padding_side=side),
        "input_features": audio["input_features"].repeat_interleave(group, 0),
        "feature_attention_mask": audio["attention_mask"].repeat_interleave(group, 0),
    }


def logprobs_of(model: Any, rows: Rows) -> Tensor:
    """Return the completions' log-probabilities ``[B, G, C]`` from the logits of all positions."""
    logits = model(**rows.inputs).logits[:, :-1].float()
    chosen = rows.inputs["input_ids"][:, 1:]
    picked = logits.gather(-1, chosen[..., None])[..., 0]
    normaliser = torch.stack([row.logsumexp(-1) for row in logits])  # a row at a time, as TRL does to save memory
    scores = (picked - normaliser)[rows.labels[:, 1:] != IGNORED]
    return torch.zeros(rows.mask.shape, device=scores.device).masked_scatter(rows.mask, scores)


def grpo_step(model: PeftModel, rows: Rows, advantages: Tensor, beta: float = 0.04) -> tuple[Tensor, Tensor]:
    """Reference forward, policy forward, backward.

    Returns:
        Loss and the policy's log-probabilities, both without gradient.
    """
    with torch.no_grad(), model.disable_adapter():
        reference = logprobs_of(model, rows)
    logprobs = logprobs_of(model, rows)
    loss = grpo_loss(logprobs, logprobs.detach(), reference, advantages, rows.mask, beta=beta).loss
    loss.backward()
    return loss.detach(), logprobs.detach()


def sft_step(model: Any, rows: Rows) -> Tensor:
    """Forward with labels, backward; returns the loss."""
    loss: Tensor = model(**rows.inputs, labels=rows.labels).loss
    loss.backward()
    return loss.detach()
