"""What Lightning keeps to itself and this project cannot do without: here, and in no other place.

Each function says which public thing is missing. ``tests/test_foreign_internals.py`` fails when an upgrade moves
one of them. Methods of Lightning's classes that are overridden stand with the classes that do so
(``callbacks/checkpoints/``, ``cli/``) and in the same test.
"""

from datetime import timedelta
from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

SubprocessLauncher = _SubprocessScriptLauncher
"""What starts the other ranks of a machine. No public launcher can be derived from."""


def set_received_sigterm(trainer: Trainer, received: bool) -> None:
    """Say whether training is to end because of SIGTERM; ``trainer.received_sigterm`` can be read only.

    Args:
        trainer: The trainer.
        received: What it is to answer.
    """
    trainer._signal_connector.received_sigterm = received


def leave_sigterm_alone(trainer: Trainer) -> None:
    """Let Lightning's handler of SIGTERM start no collective operation; no option of the trainer does.

    Args:
        trainer: The trainer.
    """
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]


def gradients_wait(trainer: Trainer) -> bool:
    """Tell whether the last batch's gradients wait for further batches; strategies may have a say in it.

    Args:
        trainer: The trainer, after a batch.
    """
    return bool(trainer.fit_loop._should_accumulate())


def validates_next(trainer: Trainer) -> bool:
    """Tell in ``on_train_batch_end`` whether a validation follows; no hook and no property does.

    Args:
        trainer: The trainer.
    """
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def logger_step(trainer: Trainer) -> int:
    """Return the step of logged values: batches, not optimizer steps, of which a batch of GRPO may take several.

    ``LightningModule.log`` uses it for numbers; tables and histograms go to a logger directly, which must be told.

    Args:
        trainer: The trainer.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def uses_distributed_sampler(trainer: Trainer) -> bool:
    """Return the trainer's argument of this name, which it keeps nowhere else.

    Args:
        trainer: The trainer.
    """
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def cluster_environment(trainer: Trainer) -> ClusterEnvironment:
    """Return where the trainer takes its ranks from; only strategies for several devices say so in public.

    Args:
        trainer: The trainer.
    """
    return trainer._accelerator_connector.cluster_environment


def set_launcher(trainer: Trainer, launcher: SubprocessLauncher) -> None:
    """Let another launcher start the ranks; strategies make their own and take none.

    Args:
        trainer: The trainer.
        launcher: What starts them.
    """
    trainer.strategy._launcher = launcher


def checkpoints_are_folders(trainer: Trainer) -> bool:
    """Tell whether each rank writes its own part: ``save_distributed_checkpoint`` of ``ModelParallelStrategy``.

    Args:
        trainer: The trainer.
    """
    return bool(getattr(trainer.strategy, "_save_distributed_checkpoint", False))


def collective_timeout(trainer: Trainer) -> timedelta | None:
    """Return how long ranks wait for each other: ``timeout`` of the strategy, None where it has none.

    Args:
        trainer: The trainer.
    """
    found: timedelta | None = getattr(trainer.strategy, "_timeout", None)
    return found


def dump_checkpoint(trainer: Trainer, weights_only: bool) -> dict[str, Any]:
    """Return what a checkpoint consists of; ``trainer.save_checkpoint`` writes it at once.

    Args:
        trainer: The trainer.
        weights_only: Leave out what only a resumed run needs.
    """
    return trainer._checkpoint_connector.dump_checkpoint(weights_only)
