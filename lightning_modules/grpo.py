"""Group-relative policy optimisation against the teacher's answers (paper, section 3.3, Eq. 2)."""

import contextlib
import math
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from datamodules.batching.batch import AudioQABatch, Completions
from datamodules.batching.host_arrays import to_device
from lightning_modules.doors import GradedRollouts, TrainingRollouts
from lightning_modules.grpo_settings import GRPOSettings
from lightning_modules.models.checkpoints.loading import present_loading
from lightning_modules.models.student import Student
from lightning_modules.models.weight_types import reference_type
from lightning_modules.objectives.advantages import frac_reward_zero_std, weighted_sum
from lightning_modules.objectives.averages import Counts
from lightning_modules.objectives.batch_reward import BatchReward
from lightning_modules.objectives.hopeless import hopeless
from lightning_modules.objectives.objective import Policies
from lightning_modules.objectives.reward_checks import usable, weights_of
from lightning_modules.objectives.rewards import AccuracyReward, FormatReward, compute_rewards
from lightning_modules.rollout_work import RolloutWork
from lightning_modules.student_training import StudentTraining, bound_gradients, refuse_lost_gradients
from runtime.errors import UserError
from runtime.settings import takes


class GRPOModule(StudentTraining, GradedRollouts):
    """Learns from rewards of its own completions, held near the SFT policy by a KL term (Eq. 2, or another objective).

    One training batch is one rollout batch: B questions for which a rollout callback has sampled G completions each.
    It is used for ``num_iterations`` optimizer steps; within a step gradients are accumulated over micro-batches.
    """

    settings: GRPOSettings

    @takes(GRPOSettings)
    def __init__(self, *weights: Any, **settings: Any) -> None:
        """Load policy and reference, as :class:`GRPOSettings` describes."""
        chosen = GRPOSettings(*weights, **settings)
        super().__init__(chosen)
        self.automatic_optimization = False
        self.reward_functions = usable(chosen.reward_functions or [AccuracyReward(), FormatReward()])
        self._reward_weights = weights_of(self.reward_functions, chosen.objective.reward_weights)
        urls = chosen.reference_urls
        self.reference_urls = tuple([urls] if isinstance(urls, str) else urls or ())
        self.reference: Student | None = None
        if chosen.beta > 0 and self.student.lora is None and not self.reference_urls:
            dtype = reference_type(chosen.type_of_reference, chosen.dtype, present_loading())
            attention = chosen.attn_implementation
            self.reference = Student(chosen.weights, dtype=dtype, attn_implementation=attention).eval()
            self.reference.requires_grad_(False)
        if chosen.reference_refresh is not None:
            chosen.reference_refresh.check(self.reference)
        self.last_rewards: dict[str, Tensor] = {}
        self.last_totals: Tensor | None = None
        self.last_advantages: Tensor | None = None
        self._rewarded: Completions | None = None
        self._grad_norm = torch.zeros(())
        self._of_teacher: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "GRPOModule":
        """Switch the policy; the reference always stays in evaluation mode."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        for function in self._batch_rewards:
            function.prepare(self.device, self.global_rank, self.trainer.world_size)

    @override
    def teardown(self, stage: str) -> None:
        for function in self._batch_rewards:
            function.close()

    @property
    def _batch_rewards(self) -> list[BatchReward]:
        """The reward functions that grade a batch at once; models among them are no part of this module."""
        return [function for function in self.reward_functions if isinstance(function, BatchReward)]

    @property
    @override
    def training_rollouts(self) -> TrainingRollouts:
        wanted = self.reference_urls if self.settings.beta > 0 else ()
        chosen = self.settings
        return TrainingRollouts(
            num_completions=chosen.num_completions,
            temperature=chosen.temperature,
            steps=chosen.num_iterations,
            max_resamples=chosen.max_resamples,
            reference_urls=wanted,
            distillation=chosen.distillation,
            spare_prompts=chosen.spare_prompts,
        )

    @property
    def spare_prompts(self) -> int:
        """Spare questions of each batch, which the DataModule asks for."""
        return self.settings.spare_prompts

    def training_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Grade the rollouts, then take ``num_iterations`` optimizer steps on Eq. 2."""
        rollouts = batch.completions
        if rollouts is None or rollouts.logprobs is None:
            raise UserError(
                "the batch has no rollouts: add callbacks.VLLMRollout or callbacks.LocalRollout to trainer.callbacks"
            )
        self.refuse_lost_scale()
        begun = time.perf_counter()
        self._reward(batch)
        work = self._prepare(batch)
        scheduler: Any = self.lr_schedulers()
        lr = scheduler.get_last_lr()[0]
        first_step = self.global_step
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        norms = [self._update(work, sums) for _ in range(self.settings.num_iterations)]
        metrics = {name: value / self.settings.num_iterations for name, value in sums.items()}
        metrics |= self._of_teacher
        real = to_device(rollouts.places(), self.device)
        self._refresh_reference(first_step)
        metrics["train/sampling_logp_difference"] = (
            (rollouts.logprobs - torch.cat(work.old)).abs().flatten()[real].mean()
        )
        logged = self._fetch(metrics, norms, first_step)
        logged |= self._rollout_metrics(batch, rollouts)
        logged |= {"lr": lr, "time/learner": time.perf_counter() - begun}
        values = to_device(torch.tensor([float(value) for value in logged.values()]), self.device)
        there = dict(zip(logged, values, strict=True))  # a number by itself would make the host wait for each
        self.log_dict(there, sync_dist=True, batch_size=len(batch))
        self.log("reward", there["train/reward"], prog_bar=True, logger=False, batch_size=len(batch))
        return None

    def _refresh_reference(self, before: int) -> None:
        """Have the reference follow the policy where steps since ``before`` make it due."""
        refresh = self.settings.reference_refresh
        if refresh is not None and self.reference is not None and refresh.due(before, self.global_step):
            refresh.refresh(self.reference, self.student)

    def _reward(self, batch: AudioQABatch) -> None:
        """Reward the rollouts, in main memory, where they are logged from; those that are rewarded already are not."""
        if self._rewarded is batch.completions:
            return
        self.last_rewards = self.compute_rewards(batch)
        self.last_totals = weighted_sum(torch.stack(list(self.last_rewards.values())), self._reward_weights)
        self._rewarded = batch.completions

    @override
    def dead_groups(self, batch: AudioQABatch) -> np.ndarray:
        self._reward(batch)
        rewards = torch.stack(list(self.last_rewards.values()))
        dead: np.ndarray = self.settings.objective.advantages.dead_groups(rewards, self._reward_weights).numpy()
        return dead

    def _prepare(self, batch: AudioQABatch) -> RolloutWork:
        """Cut a rewarded batch into micro-batches, and compute what does not change while it is learned from."""
        rows = self.settings.micro_batch_size or len(batch)
        slices = [slice(start, start + rows) for start in range(0, len(batch), rows)]
        micro_batches = [batch[s] for s in slices]
        frozen_audio = self.student.audio_tower_frozen
        audio = [self.student.encode_audio(micro) if frozen_audio else None for micro in micro_batches]
        reference = [self._reference_logprobs(m, a) for m, a in zip(micro_batches, audio, strict=True)]
        self.last_advantages = self._compare(micro_batches, reference)
        advantages = self._with_teacher(batch, to_device(self.last_advantages, self.device))
        return RolloutWork(
            micro_batches=micro_batches,
            shares=[len(micro) / len(batch) for micro in micro_batches],
            advantages=[advantages[s] for s in slices],
            audio=audio,
            reference=reference,
            counts=self._count(batch),
        )

    def _compare(self, micro_batches: list[AudioQABatch], reference: list[Tensor | None]) -> Tensor:
        """Make advantages ``[B, G]`` of the rewards in main memory; a KL term among them is waited for."""
        rewards, weights = torch.stack(list(self.last_rewards.values())), self._reward_weights
        if self.settings.objective.kl.in_reward and self.settings.beta > 0:
            distance = torch.cat([self._distance(m, r) for m, r in zip(micro_batches, reference, strict=True)])
            rewards = torch.cat([rewards, distance.cpu()[None]])
            weights = torch.cat([weights, torch.tensor([-self.settings.beta])])
        return self.settings.objective.advantages(rewards, weights, self._mean_over_ranks)

    def _with_teacher(self, batch: AudioQABatch, advantages: Tensor) -> Tensor:
        """Add what the teacher thinks of each token: ``[B, G] -> [B, G, C]``; without a teacher nothing is added."""
        chosen, done = self.settings.distillation, batch.completions
        if chosen is None:
            return advantages
        assert done is not None
        added, self._of_teacher = chosen.advantages(done, self.global_step, self._mean_over_ranks)
        return advantages[..., None] + added

    def _distance(self, batch: AudioQABatch, reference: Tensor | None) -> Tensor:
        """Estimate how far the policy that sampled is from the reference, summed over tokens ``[b, G]``."""
        done = batch.completions
        assert done is not None and done.logprobs is not None and reference is not None
        return self.settings.objective.kl(done.logprobs, reference).masked_fill(~done.mask, 0.0).sum(-1)

    def _count(self, batch: AudioQABatch) -> Counts:
        """Count what the loss is averaged over before it is cut up; ranks count their tokens together."""
        done = batch.completions
        assert done is not None
        if not self.settings.objective.average.of_all_tokens:
            return Counts(done.lengths.size)
        counted = done.lengths[done.finished] if self.settings.objective.mask_truncated else done.lengths
        mean = self._mean_over_ranks(torch.tensor(float(counted.sum())))
        return Counts(done.lengths.size, to_device(mean.clamp(min=1e-6), self.device))  # nothing at all gives 0

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        mean: Tensor = self.trainer.strategy.reduce(to_device(value, self.device), reduce_op="mean")
        return mean.to(value.device)

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
        bonus = self.settings.objective.entropy != 0
        scores = self.student.completion_logprobs(
            micro, self.settings.temperature, audio=work.audio[index], entropy_gradient=bonus
        )
        if index == len(work.old):
            work.old.append(scores.logprobs.detach())
        done = micro.completions
        assert done is not None
        mask = counted = done.mask
        if self.settings.objective.mask_truncated:
            counted = mask & to_device(done.finished, mask.device)[..., None]
        importance, held_back = self._importance(done, work.old[index])
        counted, dropped = self._without_hopeless(done, work.old[index], counted, importance is not None)
        terms = self.settings.objective.terms(
            Policies(scores.logprobs, work.old[index], frozen, scores.entropy if bonus else None),
            work.advantages[index],
            counted,
            self.settings.beta,
            work.counts,
            importance,
        )
        self.manual_backward(terms.loss)
        return {
            "train/loss": terms.loss.detach(),
            "train/kl": terms.kl * share,
            "train/clip_ratio": terms.clip_ratio * share,
            "train/entropy": scores.entropy.detach().sum() / mask.sum().clamp(min=1) * share,
            f"train/{self.settings.objective.importance.metric}": held_back * share,
            **{name: value * share for name, value in dropped.items()},
        }

    def compute_rewards(self, batch: AudioQABatch) -> dict[str, Tensor]:
        """Reward the batch's completions: ``[B, G]`` by each reward function."""
        return compute_rewards(batch, self.reward_functions)

    @torch.no_grad()
    def _reference_logprobs(self, batch: AudioQABatch, audio: Tensor | None) -> Tensor | None:
        """Log-probabilities under the SFT policy, or None when the KL term is off."""
        if self.settings.beta == 0:
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
        return policy.completion_logprobs(batch, self.settings.temperature, inside, audio, entropy=False).logprobs

    def _importance(self, done: Completions, old: Tensor) -> tuple[Tensor | None, Tensor]:
        """Weights of tokens that another policy sampled, and the share that was held back."""
        assert done.logprobs is not None
        if not (done.stale or self.settings.objective.importance.always):
            return None, old.new_zeros(())
        return self.settings.objective.importance(old, done.logprobs, done.mask)

    def _without_hopeless(
        self, done: Completions, old: Tensor, counted: Tensor, weighted: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave out responses that no weight can correct, where any are weighted; returns their share too."""
        bound = self.settings.max_sequence_ratio
        if bound is None:
            return counted, {}
        assert done.logprobs is not None
        lost = hopeless(old, done.logprobs, done.mask, bound) if weighted else done.mask.new_zeros(done.mask.shape[:2])
        return counted & ~lost[..., None], {"train/dropped_sequences": lost.float().mean()}

    @override
    def checkpoint_names(self) -> set[str]:
        """Return the names of the weights that change: the trained ones, and the reference's where it is refreshed."""
        if self.settings.reference_refresh is None:
            return super().checkpoint_names()
        moved = {name for name, _ in self.named_parameters() if name.startswith("reference.")}
        return super().checkpoint_names() | moved

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Scale the gradients down to ``max_grad_norm``; by now float16's scaler has undone its scaling."""
        self._grad_norm = bound_gradients(
            [p for _, p in self.student.trainable_parameters()], self.settings.max_grad_norm
        )

    def _rollout_metrics(self, batch: AudioQABatch, rollouts: Completions) -> dict[str, float]:
        """What is known of the rollouts in main memory."""
        rewards = self.last_totals
        assert rewards is not None
        parts = {f"train/reward/{name}": value.mean() for name, value in self.last_rewards.items()}
        whole = {
            "train/reward": rewards.mean(),
            "train/reward_std": rewards.std(-1, correction=0).mean(),
            "train/frac_reward_zero_std": frac_reward_zero_std(rewards),
            "train/completion_length": torch.from_numpy(rollouts.lengths).float().mean(),
            "train/truncated": torch.from_numpy(~rollouts.finished).float().mean(),
        }
        if self.settings.max_resamples:
            parts["train/resampled"] = torch.tensor(rollouts.discarded_groups)
        if self.settings.spare_prompts:
            parts["train/refilled"] = torch.tensor(rollouts.refilled_groups)
        if self.settings.max_resamples or self.settings.spare_prompts:
            parts["train/wasted_tokens"] = torch.tensor(
                rollouts.discarded_tokens + rollouts.lengths[self.dead_groups(batch)].sum()
            )
        told = {name: value for function in self._batch_rewards for name, value in function.metrics.items()}
        return {name: float(value) for name, value in (parts | whole).items()} | told

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
