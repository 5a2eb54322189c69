"""Which settings differ from those that a checkpoint was trained with, said when training goes on from it."""

import json
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

KEY = "settings"
"""Key of a checkpoint under which the settings are kept."""

WEIGHTS = "model.weights"

_OF_THE_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "max_epochs",
    "max_steps",
    "precision",
)
_HARMLESS = {
    "trainer.max_epochs",
    "trainer.max_steps",
    "data.cache_dir",
    "data.eval_batch_size",
    "data.num_workers",
    "data.report_dir",
}
"""What may change without a warning: how long training lasts, and what no step depends on."""

_LONGEST = 60
"""Characters of a value that are shown."""


class ResumedSettings(Callback):
    """Keeps the run's settings in its checkpoints, and compares them when training goes on from one.

    This run's settings count from there on; of ``model.weights`` the trained ones are the checkpoint's. What would make
    a batch or an optimizer step that neither run has is refused where that is known: by
    ``datamodules.batching.resume_point``.

    Args:
        settings: The settings by their names, as :func:`settings_of` returns them.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.settings

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        then = checkpoint.get(KEY)
        if then is None:
            rank_zero_info(
                "the checkpoint does not say which settings it was trained with (an earlier version wrote it): those "
                "of this run count from here on"
            )
        elif changed := changed_settings(then, self.settings):
            say = rank_zero_info if changed <= _HARMLESS else rank_zero_warn
            say(said_of_changes(then, self.settings, changed))


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that training depends on, plain values by names such as ``model.lr``.

    Args:
        config: The configuration of ``fit``, with all defaults.
    """
    found: dict[str, Any] = {"seed_everything": config.get("seed_everything")}
    for part in ("model", "data"):
        section = config.get(part) or {}
        found[part] = str(section.get("class_path")).rpartition(".")[2]
        found |= {f"{part}.{name}": value for name, value in (section.get("init_args") or {}).items()}
    found |= {f"trainer.{name}": config["trainer"].get(name) for name in _OF_THE_TRAINER}
    return {name: _plain(value) for name, value in found.items()}


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Return the names of the settings that differ; one that another version does not have is not compared.

    Args:
        then: The settings of the checkpoint.
        now: Those of this run.
    """
    return {name for name in then.keys() & now.keys() if then[name] != now[name]}


def said_of_changes(then: Mapping[str, Any], now: Mapping[str, Any], changed: set[str]) -> str:
    """Return one sentence about settings that differ, and which value of each counts.

    Args:
        then: The settings of the checkpoint.
        now: Those of this run.
        changed: Which ones differ.
    """
    each = ", ".join(f"{name} {_shown(then[name])} -> {_shown(now[name])}" for name in sorted(changed))
    trained = "; of model.weights the trained ones are the checkpoint's all the same" if WEIGHTS in changed else ""
    return (
        f"training goes on from a checkpoint with other settings ({each}): the new values count from here on{trained}; "
        "restore the old ones for the run that was begun, or leave out ckpt_path for one with the new ones throughout"
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return json.dumps(value, default=str, sort_keys=True)


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
