"""Qwen2-Audio's weight names: in memory under the installed transformers, and on the Hugging Face Hub.

vLLM and every published checkpoint use the Hub's names; ``save_pretrained`` of transformers 5 does not write them.
"""

_PREFIXES = {
    "model.language_model.": "language_model.model.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}


def hub_name(name: str) -> str:
    """Translate an in-memory weight name of ``Qwen2AudioForConditionalGeneration`` to the Hub's.

    Raises:
        KeyError: The name belongs to no known part of the model.
    """
    for ours, hub in _PREFIXES.items():
        if name.startswith(ours):
            return hub + name.removeprefix(ours)
    raise KeyError(f"weight {name!r} has no name on the Hub: expected one of the prefixes {sorted(_PREFIXES)}")
