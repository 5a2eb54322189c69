"""What can be set of GRPO."""

import logging
from dataclasses import dataclass

from lightning_modules.distillation import OnPolicyDistillation
from lightning_modules.models.weight_types import AUTO
from lightning_modules.objectives.advantages import GDPO
from lightning_modules.objectives.batch_reward import BatchReward
from lightning_modules.objectives.kl import K1
from lightning_modules.objectives.objective import Objective
from lightning_modules.objectives.reward_checks import Reward
from lightning_modules.reference_refresh import ReferenceRefresh
from lightning_modules.student_training import TrainingSettings
from runtime.errors import UserError, refuse_below

log = logging.getLogger("lightning.pytorch.grpo")  # below Lightning's logger, so that it is seen
_EQ_2 = Objective()


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(TrainingSettings):
    """Group-relative policy optimisation, beside what is said in :class:`.student_training.TrainingSettings`.

    Attributes:
        weights: The SFT policy: Hub name or directory of a student's checkpoint. It is both the
            starting point and the reference of the KL term (with LoRA the model without its adapters, which is the
            same).
        lr: Peak learning rate of AdamW.
        num_completions: G, completions sampled of each question.
        temperature: Sampling temperature; log-probabilities are taken at the same temperature.
        beta: Weight of the KL term; 0 leaves it out and saves the reference's memory and time.
        num_iterations: Optimizer steps on each rollout batch.
        micro_batch_size: Questions (with all their completions) in one forward and backward pass; the whole batch
            unless given.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them alone.
        reward_functions: What is rewarded; their weighted sum is the reward. Accuracy and format unless given. Classes
            with ``name`` and ``__call__(completion, question, label)``, plain functions of the same, or BatchRewards
            such as GroundingReward, which grade a batch at once.
        reference_dtype: Type of the weights of the reference that is kept beside a policy without adapters: float32,
            bfloat16, float16, or null for the policy's. With auto it is the policy's, except in a stage of ``train.py``
            on a GPU with ``trainer.precision`` bf16-mixed, where it is bfloat16.
        reference_urls: Servers that hold ``weights`` and score each completion, in place of a reference here: that
            frees its memory and its forward pass. Needs callbacks.VLLMRollout and temperature 1, which servers score
            at. Start one with ``python -m inference.vllm_server --model`` and ``weights``; none of them may be among
            the rollout servers.
        objective: What is maximised, Eq. 2 unless its parts are replaced; see Objective and docs/objectives.md.
        reference_refresh: Have the reference follow the policy; by default it stays the SFT policy.
        max_resamples: A question whose completions are all equally good teaches nothing: it is asked again, with other
            seeds, so often at most within the same step.
        distillation: Have a vision-language teacher score each sampled token, and add what it thinks to the advantages;
            by default there is no teacher. Needs callbacks.VLLMRollout and temperature 1, which servers score at.
        spare_prompts: Questions that each device's batch has beyond ``data.batch_size``: they are asked, in their
            order, in place of those whose completions are (still) all equally good, and else left out of this epoch.
        max_sequence_ratio: Nothing is learnt from a completion of an earlier policy (or of any, with ``always`` of the
            objective's importance) that the policy finds so many times likelier or less likely than the server that
            sampled it; above 1, such as 1000. Null keeps all.
    """

    lr: float = 1e-6
    num_completions: int = 8
    temperature: float = 1.0
    beta: float = 0.04
    num_iterations: int = 1
    micro_batch_size: int | None = None
    max_grad_norm: float = 1.0
    reward_functions: list[Reward | BatchReward] | None = None
    reference_dtype: str | None = AUTO
    reference_urls: list[str] | None = None
    objective: Objective = _EQ_2
    reference_refresh: ReferenceRefresh | None = None
    max_resamples: int = 0
    distillation: OnPolicyDistillation | None = None
    spare_prompts: int = 0
    max_sequence_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_below(2, "model.", num_completions=self.num_completions)
        refuse_below(0, "model.", max_resamples=self.max_resamples, spare_prompts=self.spare_prompts)
        refuse_below(1, "model.", num_iterations=self.num_iterations, micro_batch_size=self.micro_batch_size)
        if self.max_sequence_ratio is not None and not self.max_sequence_ratio > 1:
            raise UserError(
                f"model.max_sequence_ratio is {self.max_sequence_ratio}: it is above 1, which is the ratio on-policy"
            )
        if self.temperature <= 0:
            raise UserError(f"model.temperature is {self.temperature}: GRPO samples, so it must be above 0")
        if self.reference_urls and self.temperature != 1:
            raise UserError(
                f"model.temperature is {self.temperature} and model.reference_urls names servers: they score given "
                "tokens at temperature 1 only, so that the KL term would compare two temperatures; set "
                "model.temperature to 1, or leave model.reference_urls out, and the reference is computed here"
            )
        if self.distillation is not None and self.temperature != 1:
            raise UserError(
                f"model.temperature is {self.temperature} and model.distillation asks a teacher: servers score given "
                "tokens at temperature 1 only, so that student and teacher would be compared at two temperatures; set "
                "model.temperature to 1"
            )
        if self.distillation is not None and (self.max_resamples or self.spare_prompts):
            raise UserError(
                "model.distillation has a teacher judge each token, so that no question says nothing: leave "
                "model.max_resamples and model.spare_prompts at 0"
            )
        kl = self.objective.kl
        if self.beta > 0 and kl.in_reward and isinstance(self.objective.advantages, GDPO):
            raise UserError(
                "model.objective: GDPO brings each reward to the same scale, the KL term too, so that model.beta would "
                "have no effect: set kl's in_reward to false, or use other advantages"
            )
        if self.beta > 0 and isinstance(kl, K1) and not kl.in_reward:
            log.warning("model.objective.kl: the gradient of k1 in the loss is zero on average; set its in_reward")

    @property
    def type_of_reference(self) -> str | None:
        """``reference_dtype``, but the policy's for an average, in which small changes must not be rounded away."""
        averaged = self.reference_refresh is not None and self.reference_refresh.share < 1
        return None if averaged and self.reference_dtype == AUTO else self.reference_dtype
