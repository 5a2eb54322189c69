"""Group-relative policy optimisation against the teacher's answers (paper, section 3.3, Eq. 2)."""

import contextlib
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from datamodules.batching.batch import AudioQABatch, Completions
from datamodules.batching.host_arrays import to_device
from lightning_modules.doors import GradedRollouts, TrainingRollouts
from lightning_modules.models.student import Student
from lightning_modules.models.weight_types import AUTO, reference_type
from lightning_modules.objectives.advantages import frac_reward_zero_std, group_relative_advantages
from lightning_modules.objectives.losses import grpo_loss, importance_weights
from lightning_modules.objectives.reward_checks import Reward, usable
from lightning_modules.objectives.rewards import AccuracyReward, FormatReward, compute_rewards
from lightning_modules.student_training import StudentTraining, bound_gradients, refuse_lost_gradients
from runtime.errors import UserError, refuse_below


@dataclass
class RolloutWork:
    """What the optimizer steps on one rollout batch have in common; lists go by micro-batch.

    Attributes:
        micro_batches: Questions with their rollouts.
        shares: Part of the batch's questions that each has.
        advantages: Advantages of its completions ``[b, G]``.
        audio: Its audio where the tower is frozen, encoded once.
        reference: Log-probabilities under the SFT policy ``[b, G, C]``; None where the KL term is off.
        completions: B * G, completions of the whole batch.
        old: Log-probabilities under the policy before the first step ``[b, G, C]``, which the first step adds.
    """

    micro_batches: list[AudioQABatch]
    shares: list[float]
    advantages: list[Tensor]
    audio: list[Tensor | None]
    reference: list[Tensor | None]
    completions: int
    old: list[Tensor] = field(default_factory=list)


class GRPOModule(StudentTraining, GradedRollouts):
    """Learns from rewards of its own completions, held near the SFT policy by a KL term.

    One training batch is one rollout batch: B questions for which a rollout callback has sampled G completions each.
    It is used for ``num_iterations`` optimizer steps; within a step gradients are accumulated over micro-batches.
    """

    def __init__(
        self,
        weights: str,
        lr: float = 1e-6,
        num_completions: int = 8,
        temperature: float = 1.0,
        beta: float = 0.04,
        epsilon: float = 0.2,
        num_iterations: int = 1,
        micro_batch_size: int | None = None,
        max_grad_norm: float = 1.0,
        reward_functions: list[Reward] | None = None,
        reference_dtype: str | None = AUTO,
        importance_sampling_cap: float = 2.0,
        reference_urls: list[str] | None = None,
        **training: Any,
    ) -> None:
        """Load policy and reference.

        Args:
            weights: The SFT policy: Hub name or directory of a Qwen2-Audio or Qwen2.5-Omni checkpoint. It is both the
                starting point and the reference of the KL term (with LoRA the model without its adapters, which is the
                same).
            lr: Peak learning rate of AdamW.
            num_completions: G, completions sampled of each question.
            temperature: Sampling temperature; log-probabilities are taken at the same temperature.
            beta: Weight of the KL term; 0 leaves it out and saves the reference's memory and time.
            epsilon: Clip range of the probability ratio.
            num_iterations: Optimizer steps on each rollout batch.
            micro_batch_size: Questions (with all their completions) in one forward and backward pass; the whole batch
                unless given.
            max_grad_norm: Gradients are scaled down to this norm; 0 leaves them alone.
            reward_functions: What is rewarded; their sum is the reward. Accuracy and format unless given. Classes with
                ``name`` and ``__call__(completion, question, label)``, or plain functions of the same.
            reference_dtype: Type of the weights of the reference that is kept beside a policy without adapters:
                float32, bfloat16, float16, or null for the policy's. With auto it is the policy's, except in a stage of
                ``train.py`` on a GPU with ``trainer.precision`` bf16-mixed, where it is bfloat16.
            importance_sampling_cap: Where rollouts were sampled by an earlier policy (``max_staleness`` of the rollout
                callback), each token's part of the objective is weighted by its probability under the present policy
                over that under the one that sampled, at most by this much. On-policy rollouts are not weighted.
            reference_urls: Servers that hold ``weights`` and score each completion, in place of a reference here: that
                frees its memory and its forward pass. Needs callbacks.VLLMRollout and temperature 1, which servers
                score at. Start one with ``python -m inference.vllm_server --model`` and ``weights``; none of them may
                be among the rollout servers.
            **training: How AdamW updates the student (``weight_decay``, ``warmup_steps``, ``schedule``,
                ``allow_low_precision_weights``, ``optimizer``: see StudentTraining), how it is loaded (``lora``,
                ``dtype``, ``attn_implementation``, ``gradient_checkpointing``, ``activation_offload``,
                ``freeze_audio_tower``: see Student) and spread over ranks (``sharding``: see AudioQAModule).
        """
        super().__init__(weights, lr, **training)
        refuse_below(2, "model.", num_completions=num_completions)
        refuse_below(1, "model.", num_iterations=num_iterations, micro_batch_size=micro_batch_size)
        if importance_sampling_cap < 1:
            raise UserError(
                f"model.importance_sampling_cap is {importance_sampling_cap}: below 1 it would cut on-policy tokens too"
            )
        if temperature <= 0:
            raise UserError(f"model.temperature is {temperature}: GRPO samples, so it must be above 0")
        if reference_urls and temperature != 1:
            raise UserError(
                f"model.temperature is {temperature} and model.reference_urls names servers: they score given tokens "
                "at temperature 1 only, so that the KL term would compare two temperatures; set model.temperature to "
                "1, or leave model.reference_urls out, and the reference is computed here"
            )
        self.automatic_optimization = False
        self.num_completions = num_completions
        self.temperature = temperature
        self.beta = beta
        self.epsilon = epsilon
        self.num_iterations = num_iterations
        self.micro_batch_size = micro_batch_size
        self.max_grad_norm = max_grad_norm
        self.importance_sampling_cap = importance_sampling_cap
        self.reward_functions = usable(reward_functions or [AccuracyReward(), FormatReward()])
        self.reference: Student | None = None
        self.reference_urls = tuple([reference_urls] if isinstance(reference_urls, str) else reference_urls or ())
        if beta > 0 and self.student.lora is None and not self.reference_urls:
            dtype = reference_type(reference_dtype, self.student.dtype)
            self.reference = Student(weights, dtype=dtype, attn_implementation=self.student.attn_implementation).eval()
            self.reference.requires_grad_(False)
        self.last_rewards: dict[str, Tensor] = {}
        self.last_advantages: Tensor | None = None
        self._grad_norm = torch.zeros(())

    def train(self, mode: bool = True) -> "GRPOModule":
        """Switch the policy; the reference always stays in evaluation mode."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    @property
    @override
    def training_rollouts(self) -> TrainingRollouts:
        wanted = self.reference_urls if self.beta > 0 else ()
        return TrainingRollouts(self.num_completions, self.temperature, self.num_iterations, wanted)

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Grade the rollouts, then take ``num_iterations`` optimizer steps on Eq. 2."""
        rollouts = batch.completions
        if rollouts is None or rollouts.logprobs is None:
            raise UserError(
                "the batch has no rollouts: add callbacks.VLLMRollout or callbacks.LocalRollout to trainer.callbacks"
            )
        self.refuse_lost_scale()
        begun = time.perf_counter()
        rewards = self._reward(batch)
        work = self._prepare(batch)
        scheduler: Any = self.lr_schedulers()
        lr = scheduler.get_last_lr()[0]
        first_step = self.global_step
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        norms = [self._update(work, sums) for _ in range(self.num_iterations)]
        metrics = {name: value / self.num_iterations for name, value in sums.items()}
        real = to_device(rollouts.places(), self.device)
        metrics["train/sampling_logp_difference"] = (
            (rollouts.logprobs - torch.cat(work.old)).abs().flatten()[real].mean()
        )
        logged = self._fetch(metrics, norms, first_step)
        logged |= self._rollout_metrics(rollouts, rewards)
        logged |= {"lr": lr, "time/learner": time.perf_counter() - begun}
        self.log_dict(logged, sync_dist=True, batch_size=len(batch))
        self.log("reward", logged["train/reward"], prog_bar=True, logger=False, batch_size=len(batch))
        return None

    def _reward(self, batch: AudioQABatch) -> Tensor:
        """Reward the rollouts ``[B, G]``, in main memory, where they are logged from, and compare them in groups."""
        self.last_rewards = self.compute_rewards(batch)
        rewards = torch.stack(list(self.last_rewards.values())).sum(0)
        self.last_advantages = group_relative_advantages(rewards)
        return rewards

    def _prepare(self, batch: AudioQABatch) -> RolloutWork:
        """Cut a rewarded batch into micro-batches, and compute what does not change while it is learned from."""
        assert self.last_advantages is not None
        advantages = to_device(self.last_advantages, self.device)
        rows = self.micro_batch_size or len(batch)
        slices = [slice(start, start + rows) for start in range(0, len(batch), rows)]
        micro_batches = [batch[s] for s in slices]
        frozen_audio = self.student.audio_tower_frozen
        audio = [self.student.encode_audio(micro) if frozen_audio else None for micro in micro_batches]
        return RolloutWork(
            micro_batches=micro_batches,
            shares=[len(micro) / len(batch) for micro in micro_batches],
            advantages=[advantages[s] for s in slices],
            audio=audio,
            reference=[self._reference_logprobs(m, a) for m, a in zip(micro_batches, audio, strict=True)],
            completions=advantages.numel(),
        )

    def _update(self, work: RolloutWork, sums: dict[str, Tensor]) -> Tensor:
        """Take one optimizer step on Eq. 2 over a batch.

        Args:
            work: The batch.
            sums: Metrics, to which those of this step are added.

        Returns:
            Norm of the gradients.
        """
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        optimizer.zero_grad()
        for index in range(len(work.micro_batches)):
            last = index == len(work.micro_batches) - 1
            with contextlib.nullcontext() if last else self.unsynchronised():
                metrics = self._backward(work, index)
            for name, value in metrics.items():
                sums[name] += value
        optimizer.step()  # clips before: on_before_optimizer_step
        scheduler.step()
        return self._grad_norm

    def _backward(self, work: RolloutWork, index: int) -> dict[str, Tensor]:
        """Add a micro-batch's gradients to those of the coming optimizer step; returns its part of the metrics."""
        micro, frozen, share = work.micro_batches[index], work.reference[index], work.shares[index]
        scores = self.student.completion_logprobs(micro, self.temperature, audio=work.audio[index])
        if index == len(work.old):
            work.old.append(scores.logprobs.detach())
        mask = micro.completions.mask  # type: ignore[union-attr]
        importance, truncated = self._importance(micro, work.old[index])
        terms = grpo_loss(
            scores.logprobs,
            work.old[index],
            scores.logprobs.detach() if frozen is None else frozen,
            work.advantages[index],
            mask,
            self.epsilon,
            self.beta,
            responses=work.completions,
            importance=importance,
        )
        self.manual_backward(terms.loss)
        return {
            "train/loss": terms.loss.detach(),
            "train/kl": terms.kl * share,
            "train/clip_ratio": terms.clip_ratio * share,
            "train/entropy": scores.entropy.sum() / mask.sum().clamp(min=1) * share,
            "train/importance_truncated": truncated * share,
        }

    def compute_rewards(self, batch: AudioQABatch) -> dict[str, Tensor]:
        """Reward the batch's completions: ``[B, G]`` by each reward function."""
        return compute_rewards(batch, self.reward_functions)

    @torch.no_grad()
    def _reference_logprobs(self, batch: AudioQABatch, audio: Tensor | None) -> Tensor | None:
        """Log-probabilities under the SFT policy, or None when the KL term is off."""
        if self.beta == 0:
            return None
        if self.reference_urls:
            scored = batch.completions.reference_logprobs if batch.completions is not None else None
            if scored is None:
                raise UserError(
                    "model.reference_urls names servers, and nobody has asked them to score the rollouts: that is done "
                    "by callbacks.VLLMRollout; with another callback leave model.reference_urls out"
                )
            return scored
        inside = self.reference is None
        policy = self.reference or self.student
        return policy.completion_logprobs(batch, self.temperature, inside, audio, entropy=False).logprobs

    def _importance(self, batch: AudioQABatch, old: Tensor) -> tuple[Tensor | None, Tensor]:
        """Weights of rollouts that an earlier policy sampled, and the share that was truncated."""
        done = batch.completions
        assert done is not None and done.logprobs is not None
        if not done.stale:
            return None, old.new_zeros(())
        return importance_weights(old, done.logprobs, done.mask, self.importance_sampling_cap)

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Scale the gradients down to ``max_grad_norm``; by now float16's scaler has undone its scaling."""
        self._grad_norm = bound_gradients([p for _, p in self.student.trainable_parameters()], self.max_grad_norm)

    def _rollout_metrics(self, rollouts: Completions, rewards: Tensor) -> dict[str, float]:
        """What is known of the rollouts in main memory."""
        parts = {f"train/reward/{name}": value.mean() for name, value in self.last_rewards.items()}
        whole = {
            "train/reward": rewards.mean(),
            "train/reward_std": rewards.std(-1, correction=0).mean(),
            "train/frac_reward_zero_std": frac_reward_zero_std(rewards),
            "train/completion_length": torch.from_numpy(rollouts.lengths).float().mean(),
            "train/truncated": torch.from_numpy(~rollouts.finished).float().mean(),
        }
        return {name: float(value) for name, value in (parts | whole).items()}

    def _fetch(self, metrics: dict[str, Tensor], norms: list[Tensor], first_step: int) -> dict[str, float]:
        """Bring what a batch's steps have computed to main memory: the one time that the device is waited for.

        So a gradient that is not finite is seen after the optimizer has taken it, and before anything else has:
        the weights are in no checkpoint, on no server and in no other batch by now.

        Args:
            metrics: Scalars by name.
            norms: Norm of the gradients at each optimizer step.
            first_step: Number of the first of these steps.

        Raises:
            LostGradients: Gradients were not finite, and not because float16 overflowed.
        """
        values = torch.stack([*metrics.values(), *(norm.float() for norm in norms)]).tolist()
        read = dict(zip(metrics, values, strict=False))
        found = values[len(metrics) :]
        bad = [at for at, norm in enumerate(found) if not math.isfinite(norm)]
        if self.loss_scale is None:
            beside = (
                f" (train/kl {read['train/kl']:g}, train/sampling_logp_difference "
                f"{read['train/sampling_logp_difference']:g})"
            )
            refuse_lost_gradients(found, range(first_step, first_step + len(found)), beside)
        finite = [0.0 if at in bad else norm for at, norm in enumerate(found)]  # the scaler has left those steps out
        read["train/grad_norm"] = float(torch.tensor(finite).sum() / len(found))
        if self.loss_scale is not None:
            read["train/overflow"] = len(bad) / len(found)
        return read
