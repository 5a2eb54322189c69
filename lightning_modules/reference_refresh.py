"""A reference that follows the policy: copied from it now and then, or an average of it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_modules.models.sharding import shard_again
from lightning_modules.models.student import Student
from runtime.errors import UserError, refuse_below


@dataclass(frozen=True)
class ReferenceRefresh:
    """``reference = share * policy + (1 - share) * reference`` every so many steps (Gorbatovski et al., 2024).

    arXiv:2404.09656 (TR-DPO): with share 1 the reference is replaced, with less it is an average of past policies. So
    the KL term bounds how fast the policy moves, and no longer how far. Checkpoints then hold the reference too.

    Attributes:
        every_n_steps: Optimizer steps between two refreshes.
        share: Part of the policy in the new reference.
    """

    every_n_steps: int = 100
    share: float = 1.0

    def __post_init__(self) -> None:
        refuse_below(1, "model.reference_refresh.", every_n_steps=self.every_n_steps)
        if not 0 < self.share <= 1:
            raise UserError(f"model.reference_refresh.share is {self.share}: above 0 and at most 1 is possible")

    def due(self, before: int, after: int) -> bool:
        """Tell whether the reference is to be refreshed.

        Args:
            before: Optimizer steps taken before a batch.
            after: Those taken after it.
        """
        return before // self.every_n_steps < after // self.every_n_steps

    @torch.no_grad()
    def refresh(self, reference: Student, policy: Student) -> None:
        """Move the reference towards the policy; where ranks share the weights each moves its own part.

        Args:
            reference: What is changed.
            policy: A model of the same kind, without adapters.
        """
        shard_again(reference)
        shard_again(policy)
        for (name, old), (same, new) in zip(
            reference.base.named_parameters(), policy.base.named_parameters(), strict=True
        ):
            assert name == same
            if self.share == 1:
                _own(old).copy_(_own(new))
            else:
                _own(old).lerp_(_own(new), self.share)

    def check(self, reference: Student | None) -> None:
        """Refuse what cannot be refreshed.

        Args:
            reference: The reference that is kept beside the policy.

        Raises:
            UserError: There is none, or it is to be averaged in a type that swallows what is added.
        """
        if reference is None:
            raise UserError(
                "model.reference_refresh changes a reference that is kept here: it needs model.beta above 0, no "
                "model.reference_urls, and no model.lora, with which the reference is the model without adapters"
            )
        low = next((p.dtype for p in reference.parameters() if p.dtype != torch.float32), None)
        if self.share < 1 and low is not None:
            raise UserError(
                f"model.reference_refresh averages weights, and the reference is kept in "
                f"{str(low).removeprefix('torch.')}, where small changes are rounded away: set model.reference_dtype "
                "to float32, or model.reference_refresh.share to 1"
            )


def _own(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight
