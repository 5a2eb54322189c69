"""Which language models the shared-prompt attention and the chunked head compute rightly; all others are refused."""

from typing import Any

from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError

_OTHERWISE = {
    "attn_logit_softcapping": "soft caps on its attention scores",
    "final_logit_softcapping": "soft caps on its logits",
    "num_kv_shared_layers": "layers that share keys and values",
    "attention_k_eq_v": "keys that are its values too",
    "hidden_size_per_layer_input": "embeddings that enter each layer",
    "attention_chunk_size": "attention in chunks",
}
"""What else a language model may have, by the field of its configuration that says so."""


def check_plain_attention(config: Any, weights: str) -> None:
    """Refuse a language model whose scores would be wrong without a word.

    In a packed batch each token sees its whole prompt and all before it, and logits are a matrix product alone.

    Args:
        config: The language model's configuration.
        weights: Where it came from, for the message.

    Raises:
        WeightsError: It has sliding windows, soft caps, shared keys or the like.
    """
    fields = config.to_dict()
    found = [words for name, words in _OTHERWISE.items() if fields.get(name)]
    kinds = {str(kind) for kind in fields.get("layer_types") or ()} - {"full_attention"}
    window = fields.get("sliding_window") if fields.get("use_sliding_window", True) else None
    if kinds or window:
        found.insert(0, "sliding windows" if window or kinds == {"sliding_attention"} else ", ".join(sorted(kinds)))
    if found:
        raise WeightsError(
            f"the language model of {weights or 'this student'} has {' and '.join(found)}, which the shared-prompt "
            "attention does not compute: choose a student whose layers all attend to everything before them"
        )
