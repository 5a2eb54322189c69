"""A vLLM plugin for students that hear less than 30 s.

vLLM 0.32 takes Qwen2-Audio's mel features at the released model's length of 3,000 frames only: a checkpoint with a
shorter window loads, and its first request ends the engine. Nothing else in vLLM depends on the length. The server
starts with this plugin when the checkpoint's window is another one.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from inference.server_process import plugin

RELEASED_FRAMES = 3_000
NAME = "sightsound_short_audio"


def register() -> None:
    """Let the number of mel frames be what the checkpoint says; vLLM calls this in each of its processes."""
    import torch
    from vllm.model_executor.models.qwen2_audio import Qwen2AudioFeatureInputs
    from vllm.utils.tensor_schema import TensorShape

    Qwen2AudioFeatureInputs.__annotations__.update(
        input_features=Annotated[torch.Tensor | list[torch.Tensor], TensorShape("na", "nmb", "nmf")],
        feature_attention_mask=Annotated[torch.Tensor, TensorShape("na", "nmf")],
    )


def has_short_window(model: str | Path) -> bool:
    """True when a checkpoint directory holds a Qwen2-Audio with another window than the released model's.

    What cannot be read is left to vLLM, which says so.
    """
    if _read(Path(model) / "config.json").get("model_type") != "qwen2_audio":
        return False
    for name in ("processor_config.json", "preprocessor_config.json"):
        fields = _read(Path(model) / name)
        extractor = fields.get("feature_extractor", fields)
        frames = extractor.get("nb_max_frames") if isinstance(extractor, dict) else None
        if frames is not None:
            return bool(frames != RELEASED_FRAMES)
    return False


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def install(directory: Path) -> Path:
    """Write the metadata by which vLLM finds the plugin; the result belongs on the server's ``PYTHONPATH``."""
    return plugin.install(directory, NAME, f"{__name__}:register")
