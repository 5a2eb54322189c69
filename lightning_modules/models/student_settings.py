"""How a student is loaded."""

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.architectures.audio_encoding import ATTENTIONS
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.weight_types import AUTO


@dataclass(frozen=True)
class StudentSettings:
    """What a student is, and how it is loaded.

    Attributes:
        weights: Hub name or directory of a Qwen2-Audio, Qwen2.5-Omni (of which the thinker is loaded) or Audio
            Flamingo 3 checkpoint.
        lora: Train low-rank adapters instead of all weights.
        dtype: Type of the weights in memory: float32, bfloat16, float16 or auto. With auto they are float32, but the
            base of adapters is bfloat16 in a stage of ``train.py`` on a GPU with ``trainer.precision`` bf16-mixed.
            Adapters are float32 always.
        attn_implementation: Attention of the audio tower: sdpa, eager or flash_attention_2. The language model always
            runs the shared-prompt attention, which is built on SDPA.
        gradient_checkpointing: Trade time for memory in the backward pass.
        freeze_audio_tower: Train the language model only, also where ``lora.target_modules`` matches layers of the
            tower; the audio is then encoded once for policy and reference.
        activation_offload: Keep in main memory what the backward pass needs of the language model's layers, the input
            of each with ``gradient_checkpointing``, without which it is refused: there would be too much to move.
    """

    weights: str
    lora: LoRASettings | None = None
    _: KW_ONLY
    dtype: str = AUTO
    attn_implementation: str = "sdpa"
    gradient_checkpointing: bool = False
    freeze_audio_tower: bool = False
    activation_offload: bool = False

    def __post_init__(self) -> None:
        if self.activation_offload and not self.gradient_checkpointing:
            raise WeightsError("activation_offload needs gradient_checkpointing: set both, or neither")
        if self.attn_implementation not in ATTENTIONS:
            raise WeightsError(
                f"attn_implementation {self.attn_implementation!r} is unknown: use {', '.join(ATTENTIONS)}"
            )

    def of_student(self) -> dict[str, Any]:
        """Return what of these and further settings a student takes, by name."""
        return {field.name: getattr(self, field.name) for field in fields(StudentSettings)}
