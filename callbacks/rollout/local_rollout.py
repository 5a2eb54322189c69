"""Rollouts without a server: transformers generates in this process. Slower, same interface."""

from typing import cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from callbacks.rollout.rollout_callback import RolloutCallback, evaluating
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.host_arrays import to_device
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.doors import RolloutModule
from lightning_modules.models.student import Student
from runtime.errors import UserError


class SeededSampling(LogitsProcessor):
    """Turns greedy search into sampling with a random generator for each row.

    The likeliest token after adding Gumbel noise to ``logits / T`` is a sample of their softmax. A row's tokens depend
    on its own seed only, not on its neighbours in the batch, and the global random state is left alone. The
    log-probability of each chosen token is kept.
    """

    def __init__(self, temperature: float, seeds: list[int]) -> None:
        """Start the generators.

        Args:
            temperature: Divides the logits; 0 takes the likeliest token.
            seeds: A seed for each row.
        """
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores whose maximum is the sample."""
        logits = scores.float()
        if self.temperature > 0:
            logits = logits / self.temperature
        noisy = logits
        if self.temperature > 0:
            uniform = [torch.rand(logits.shape[1], generator=g, dtype=torch.float64) for g in self.generators]
            gumbel = -torch.log(-torch.log(torch.stack(uniform).clamp_(1e-300, 1 - 1e-16)))
            noisy = logits + gumbel.to(logits)
        chosen = noisy.argmax(-1, keepdim=True)
        self.logprobs.append(torch.log_softmax(logits, -1).gather(-1, chosen)[:, 0])
        return noisy


class LocalRollout(RolloutCallback):
    """Samples completions with the student itself, by transformers; its weights must be whole on each rank."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sharded weights before the first step, where training or validation will roll out."""
        module = self.module(pl_module)
        if trainer.enable_validation or module.training_rollouts is not None:
            _refuse_sharded(module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sharded weights."""
        _refuse_sharded(self.module(pl_module))

    on_test_start = on_predict_start = on_validation_start

    def sample(
        self, trainer: Trainer, pl_module: RolloutModule, batch: AudioQABatch, sampling: list[SamplingParams]
    ) -> tuple[list[list[CompletionOutput]], str]:
        """Draw the completions of a batch in this process."""
        student = cast(Student, pl_module.student)
        with torch.no_grad(), evaluating(student), trainer.precision_plugin.forward_context():
            samples = generate(student, batch, sampling)
        return samples, f"local:{trainer.global_step}"


def _refuse_sharded(module: RolloutModule) -> None:
    if module.student.sharded:
        raise UserError(
            "LocalRollout needs the whole weights on each device, these are spread over them (ModelParallelStrategy): "
            "answer through a server with callbacks.VLLMRollout, or set trainer.limit_val_batches to 0 "
            "and validate the exported weights on one device"
        )


def generate(student: Student, batch: AudioQABatch, sampling: list[SamplingParams]) -> list[list[CompletionOutput]]:
    """Generate completions of a batch with transformers.

    Args:
        student: The policy.
        batch: B questions.
        sampling: How to draw each question's completions; all alike but for the seed.

    Returns:
        ``[B][G]`` completions.
    """
    how = sampling[0]
    processor = SeededSampling(how.temperature, [each.seed + i for each in sampling for i in range(how.n)])
    embeddings, mask = _left_padded_prompts(student, batch)
    output = student.base.generate(
        inputs_embeds=embeddings.repeat_interleave(how.n, 0),
        attention_mask=mask.repeat_interleave(how.n, 0),
        logits_processor=LogitsProcessorList([processor]),
        generation_config=GenerationConfig(
            max_new_tokens=how.max_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            use_cache=True,
            eos_token_id=list(how.stop_token_ids),
            pad_token_id=student.processor.tokenizer.pad_token_id,
        ),
    ).tolist()
    logprobs = torch.stack(processor.logprobs, 1).tolist()
    samples = [_cut(ids, scores, how.stop_token_ids) for ids, scores in zip(output, logprobs, strict=True)]
    return [samples[start : start + how.n] for start in range(0, len(samples), how.n)]


def _cut(ids: list[int], logprobs: list[float], stop: tuple[int, ...]) -> CompletionOutput:
    """Keep a completion up to and with its end token."""
    end = next((i + 1 for i, token in enumerate(ids) if token in stop), None)
    length = end or len(ids)
    return CompletionOutput(ids[:length], logprobs[:length], finished=end is not None)


def _left_padded_prompts(student: Student, batch: AudioQABatch) -> tuple[Tensor, Tensor]:
    """Embed the prompts with their audio and move the padding to the left, where generation wants it."""
    embedded = student.embed(batch.prompt_ids, batch, student.encode_audio(batch))
    width = embedded.shape[1]
    # row i of the result starts with the padding: position p comes from p - (width - length)
    source = to_device(np.arange(width) - (width - batch.prompt_lengths[:, None]), embedded.device)
    mask = source >= 0
    index = source.clamp(min=0)[..., None].expand_as(embedded)
    return embedded.gather(1, index) * mask[..., None], mask.long()
