"""The sizes of known students are those of the released ones."""

import pytest
import torch
from transformers import AutoConfig

from lightning_modules.models.architectures.architecture import architecture_of
from lightning_modules.models.architectures.transformers_internals import new_model
from planning.geometry import KNOWN, find_geometry

# embeddings and head, layers, and the audio path: by hand from the widths in each file
WEIGHTS = {
    "Qwen2-Audio-7B": 8.397e9,
    "audio-flamingo-3": 2 * 151_672 * 3_584 + 28 * 233_057_792 + 3_584 + 654_408_704,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str) -> None:
    config = AutoConfig.from_pretrained(KNOWN / name)
    with torch.device("meta"):
        model = new_model(architecture_of(config).model_class, config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(WEIGHTS[name], rel=1e-3)


def test_names_on_the_hub_are_known() -> None:
    assert find_geometry("nvidia/audio-flamingo-3-hf") == KNOWN / "audio-flamingo-3"
    assert find_geometry("Qwen/Qwen2-Audio-7B-Instruct") == KNOWN / "Qwen2-Audio-7B"
