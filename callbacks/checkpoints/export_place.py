"""Where weights may be exported to: nothing but an earlier export is replaced."""

import os
from pathlib import Path

from runtime.errors import UserError
from runtime.replaceable_folder import refuse_foreign

_WEIGHTS = ("config.json", "model*.safetensors", "training.json")
_BESIDE = (
    "model.safetensors.index.json",
    "*_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.*",
)


def refuse_export_place(directory: Path, option: str, checkpoint: Path | None = None) -> None:
    """Refuse a folder for exported weights that holds anything but an earlier export.

    Args:
        directory: The place.
        option: The option that names it.
        checkpoint: The checkpoint that is exported.

    Raises:
        UserError: Something else is there, or the checkpoint lies there or below.
    """
    if checkpoint is not None:
        place, source = Path(os.path.realpath(directory)), Path(os.path.realpath(checkpoint))
        if place == source or place in source.parents:
            raise UserError(
                f"{directory} holds the checkpoint {checkpoint} and would be replaced: name an empty or a new folder "
                f"with {option}"
            )
    refuse_foreign(directory, option, "an earlier export", _WEIGHTS, _BESIDE)
