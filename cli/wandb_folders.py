"""Where Weights & Biases keeps its own files when the home folder cannot be written."""

import os
from collections.abc import Callable
from pathlib import Path

import wandb.env
from lightning.pytorch.utilities import rank_zero_info

from runtime.matplotlib_folder import can_write

_FOLDERS: dict[str, Callable[[], str | os.PathLike[str]]] = {
    wandb.env.DATA_DIR: wandb.env.get_data_dir,
    wandb.env.CACHE_DIR: wandb.env.get_cache_dir,
    wandb.env.CONFIG_DIR: lambda: Path("~/.config/wandb").expanduser(),
}
"""The variable that moves each folder, and where it is without."""


def find_room(save_dir: Path) -> None:
    """Move those of Weights & Biases' folders that cannot be written below a run's own; tables are staged there.

    Folders that a variable names already stay where they are.

    Args:
        save_dir: The logger's folder.
    """
    moved = []
    for variable, usual in _FOLDERS.items():
        folder = Path(usual())
        if variable in os.environ or can_write(folder):
            continue
        place = save_dir.resolve() / "wandb-files" / variable.removeprefix("WANDB_").removesuffix("_DIR").lower()
        place.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(place)
        moved.append(str(folder))
    if moved:
        rank_zero_info(
            f"Weights & Biases cannot write {', '.join(moved)}: what it would keep there goes to "
            f"{save_dir / 'wandb-files'}"
        )
