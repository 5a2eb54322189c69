"""``python train.py export --config runs/sft/fit.yaml --ckpt_path ... --directory ...``: weights of a checkpoint."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from callbacks.checkpoints.checkpoint_export import export_checkpoint
from callbacks.checkpoints.export_place import refuse_export_place
from cli.config_files import ConfigError
from cli.lightning_cli import check_checkpoint_class
from cli.plan import ConfigurationOnly
from lightning_modules.models.checkpoints.loading import loading


def export(args: Sequence[str]) -> None:
    """Write the weights of a checkpoint as a Hugging Face directory, one at a time.

    Args:
        args: Arguments behind ``export``: those of ``fit`` that the checkpoint was written with, of which the model's
            count, and the two of :func:`own_options`.

    Raises:
        ConfigError: There is no such checkpoint, or it is of another class.
        UserError: The directory holds something else than an earlier export.
    """
    options, rest = own_options().parse_known_args(list(args))
    path = Path(options.ckpt_path)
    if not path.exists():
        raise ConfigError(f"checkpoint {path} does not exist")
    directory = Path(os.path.abspath(options.directory))  # "." has no name that another folder could take
    refuse_export_place(directory, "--directory", path)
    values = ConfigurationOnly(["fit", *rest]).config["fit"].as_dict()
    check_checkpoint_class(str(path), values["model"]["class_path"])

    def make(in_bfloat16: bool) -> Any:
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningModule, "model")
        with loading(deferred=True, frozen_in_bfloat16=in_bfloat16):
            return parser.instantiate_classes(parser.parse_object({"model": values["model"]})).model

    in_bfloat16 = str(values["trainer"].get("precision")).startswith("bf16")
    export_checkpoint(make, in_bfloat16, path, directory)
    print(f"weights of {path} exported to {options.directory}", flush=True)


def own_options() -> argparse.ArgumentParser:
    """Return the parser of what only ``export`` knows."""
    parser = argparse.ArgumentParser(
        "train.py export", description=__doc__, allow_abbrev=False, epilog="All other options are fit's."
    )
    parser.add_argument(
        "--ckpt_path", required=True, help="The checkpoint: a file, or a folder with a part of each rank."
    )
    parser.add_argument(
        "--directory",
        required=True,
        help="Where to, a new folder or an earlier export; it appears complete or not at all.",
    )
    return parser
