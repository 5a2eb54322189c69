"""A trained alignment head on disk: ``head.json`` and ``head.safetensors``, with a report beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from lightning_modules.models.alignment_head import AlignmentHead
from runtime.errors import UserError
from runtime.replaceable_folder import refuse_foreign
from runtime.whole_folder import whole_folder


def refuse_head_place(directory: Path) -> None:
    """Refuse a folder that holds anything but a head that was written before.

    Args:
        directory: The place.

    Raises:
        UserError: Something else is there.
    """
    needed = ("head.json", "head.safetensors", "report.json")
    refuse_foreign(directory, "another --trainer.default_root_dir", "a trained head", needed)


def save_head(directory: Path, head: AlignmentHead, report: Mapping[str, Any]) -> None:
    """Write a head in place of what was there before; it appears complete or not at all.

    Args:
        directory: Where to.
        head: The head.
        report: How good it is, as plain JSON, for ``report.json``.

    Raises:
        UserError: There is no room, or the place cannot be written.
    """
    state = {name: value.contiguous().cpu() for name, value in head.state_dict().items()}
    with whole_folder(directory, sum(value.nbytes for value in state.values())) as fresh:
        (fresh / "head.json").write_text(json.dumps(head.settings) + "\n", encoding="utf-8")
        save_file(state, fresh / "head.safetensors")
        (fresh / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def load_head(directory: str) -> AlignmentHead:
    """Read a head that :func:`save_head` wrote.

    Raises:
        UserError: There is none.
    """
    folder = Path(directory)
    try:
        head = AlignmentHead(**json.loads((folder / "head.json").read_text(encoding="utf-8")))
        head.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.head: no trained head in {directory} ({reason}): run `python train.py fit --config verifier.yaml`"
        ) from error
    return head
