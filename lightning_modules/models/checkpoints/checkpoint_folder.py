"""Processor, architecture and model out of a checkpoint folder or the Hub, and what is wrong where none loads."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jinja2 import TemplateSyntaxError
from transformers import AutoConfig, AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from lightning_modules.models.architectures.architecture import Architecture, architecture_of
from lightning_modules.models.checkpoints.sharded_checkpoint import is_sharded_checkpoint
from runtime.errors import UserError

_POINTER = b"version https://git-lfs"


class WeightsError(UserError):
    """Weights that are missing, incomplete or of the wrong shape."""


def load_processor(weights: str) -> Any:
    """Load the processor that belongs to ``weights``.

    Raises:
        WeightsError: There is none, or a file of it is damaged.
    """
    if Path(weights).is_file() or is_sharded_checkpoint(weights):
        raise WeightsError(
            f"weights: {weights!r} is a checkpoint, from which its own stage goes on (--ckpt_path); another one reads "
            "exported weights: the folder best of that run, or what `python train.py export` makes of the checkpoint"
        )
    if not Path(weights).is_dir() and (weights.startswith((".", "/", "~")) or weights.count("/") > 1):
        raise WeightsError(
            f"weights: there is no folder {weights!r}, and it is no name on the Hub either: the stage before exports "
            "its best weights to the folder best of its run (sft.yaml to runs/sft/best), a name on the Hub looks like "
            "Qwen/Qwen2-Audio-7B-Instruct"
        )
    try:
        processor = AutoProcessor.from_pretrained(weights)
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(f"no processor could be loaded from {weights!r}: {reason(weights, error)}") from error
    templates = getattr(processor, "chat_template", None)
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        _check_template(weights, template)
    return processor


def load_architecture(weights: str) -> tuple[Architecture, Any]:
    """Find out what ``weights`` is.

    Returns:
        Its architecture and its configuration.

    Raises:
        WeightsError: Nothing is there, or no student can be made of it.
    """
    try:
        config = AutoConfig.from_pretrained(weights)
        return architecture_of(config), config
    except Exception as error:
        raise WeightsError(f"no student could be loaded from {weights!r}: {reason(weights, error)}") from error


def load_model(architecture: Architecture, weights: str, dtype: torch.dtype, attn_implementation: str) -> Any:
    """Load a model whole.

    Args:
        architecture: Its architecture.
        weights: Hub name or directory.
        dtype: Type of its weights in memory.
        attn_implementation: Attention of its parts.

    Raises:
        WeightsError: Something is missing, damaged, left over or of another shape.
    """
    try:
        model, report = architecture.model_class.from_pretrained(
            weights, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
        )
    except Exception as error:
        raise WeightsError(
            f"no {architecture.name} could be loaded from {weights!r}: {reason(weights, error)}"
        ) from error
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        refuse_misfits(architecture, weights, kind, map(str, report.get(kind) or ()))
    return model


def refuse_misfits(architecture: Architecture, weights: str, kind: str, names: Iterator[str]) -> None:
    """Refuse a checkpoint with names that do not fit.

    Args:
        architecture: The architecture that was looked for.
        weights: Hub name or directory.
        kind: What is wrong with the names.
        names: The names; those of parts that a student does not have are ignored.

    Raises:
        WeightsError: There are any.
    """
    found = sorted(name for name in names if not name.startswith(architecture.ignored_prefixes))
    if found:
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise WeightsError(
            f"{weights!r} does not fit {architecture.name}: {len(found)} {kind.replace('_', ' ')} ({shown})"
        )


def reason(weights: str, error: Exception) -> str:
    """Say in one line why a checkpoint did not load: its first damaged file by name, else what was raised.

    Args:
        weights: Hub name or directory.
        error: What was raised.
    """
    folder = checkpoint_folder(weights)
    damage = next(_damages(folder), None) if folder else None
    said = str(error).strip()
    return damage or (said.splitlines()[0] if said else type(error).__name__)


def checkpoint_folder(weights: str) -> Path | None:
    """Return the folder of a checkpoint on this machine, or None where it is not here.

    Args:
        weights: Hub name or directory.
    """
    if Path(weights).is_dir():
        return Path(weights)
    try:
        return Path(snapshot_download(weights, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None


def _damages(folder: Path) -> Iterator[str]:
    """Yield a sentence about each file that cannot be what its name says."""
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        try:
            with open(file, "rb") as content:
                pointer = content.read(len(_POINTER)) == _POINTER
        except OSError as error:
            yield f"{file} cannot be read ({error.strerror})"
            continue
        if pointer:
            yield f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in {folder}"
        elif problem := _problem(file):
            yield f"{file} {problem}: download or export it again"


def _problem(file: Path) -> str | None:
    if file.suffix == ".safetensors":
        return _safetensors_problem(file)
    if file.suffix in (".bin", ".pt", ".pth") and not zipfile.is_zipfile(file):
        return "is cut off or no file of torch.save"
    if file.suffix == ".json":
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            return f"is cut off or not JSON ({error})"
        if file.name.endswith(".index.json"):
            shards = set(content.get("weight_map", {}).values()) if isinstance(content, dict) else set()
            absent = sorted(str(shard) for shard in shards if not (file.parent / str(shard)).exists())
            if absent:
                more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
                return f"names {absent[0]}{more}, which is not there"
    return None


def _safetensors_problem(file: Path) -> str | None:
    """Compare a file's header with its size."""
    size = file.stat().st_size
    with open(file, "rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if 8 + length > size:
            return f"is cut off ({size:,} bytes) or no safetensors file"
        try:
            header = json.loads(content.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "is no safetensors file"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"has {size:,} bytes in place of {expected:,}"


def _check_template(weights: str, template: Any) -> None:
    """Refuse a chat template that cannot be compiled; whether it renders shows with the first prompt."""
    if not isinstance(template, str):
        return
    try:
        render_jinja_template([[]], chat_template=template)
    except TemplateSyntaxError as error:
        raise WeightsError(
            f"the chat template of {weights!r} (chat_template.jinja, or in a .json file) is cut off or broken in line "
            f"{error.lineno} ({error.message}): download or export it again"
        ) from error
    except Exception:
        return
