"""The LightningCLI of this project."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import OmegaConf
from typing_extensions import override

from callbacks.checkpoints.checkpointing import WRITTEN_BY, AtomicCheckpointIO
from callbacks.checkpoints.sharded_strategy import ShardedStrategy
from callbacks.fellow_ranks import FellowRanks
from callbacks.hung_ranks import HungRanks
from callbacks.progress import ProgressLines, bar_is_visible
from callbacks.resumed_settings import ResumedSettings, settings_of
from callbacks.step_seed import StepSeed
from cli import slurm
from cli.config_files import ConfigError
from cli.console import is_verbose, metrics_line
from cli.ending import EndBySignal
from cli.failed_start import made, undone_unless
from cli.ranks import RankLauncher
from cli.wandb_folders import find_room
from cli.wandb_run import RUN_ID, is_wandb, name_wandb_run, silence_offline_wandb
from lightning_modules.models.checkpoints.loading import loading
from lightning_modules.models.checkpoints.sharded_checkpoint import PLAIN_VALUES
from lightning_modules.models.weight_types import computes_in_bfloat16
from runtime.all_ranks import is_rank_zero
from runtime.folder_claim import claimed
from runtime.lightning_internals import SubprocessLauncher, cluster_environment, set_launcher

# ${folder_name:${data.init_args.root}} in configurations is the dataset's folder without those above it
OmegaConf.register_resolver("folder_name", lambda path: Path(path).name, replace=True)

DESCRIPTION = "A stage of SightSound-R1. With --verbose, libraries say on the console what they have to say, too."
SUBCOMMANDS = ("fit", "validate", "test", "predict")
TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs/unnamed",
    "logger": False,
    "use_distributed_sampler": False,  # the DataModules shard by themselves, without repeating a question
}


class SaveStageConfig(SaveConfigCallback):
    """Writes the full configuration beside the run's results, one file of each subcommand, and to the loggers."""

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": self.config.as_dict()})


class SightSoundCLI(LightningCLI):
    """LightningCLI with any module and DataModule, cross-file interpolation and checkpoints only for resuming.

    Args:
        args: Command-line arguments.
    """

    def __init__(self, args: ArgsType = None) -> None:
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        parsing = {"parser_mode": "omegaconf+", "exit_on_error": False, "description": DESCRIPTION}
        with contextlib.ExitStack() as self._held:
            super().__init__(
                model_class=LightningModule,
                datamodule_class=LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveStageConfig,
                save_config_kwargs={"overwrite": True},
                trainer_defaults=TRAINER_DEFAULTS | {"enable_model_summary": is_verbose()},
                seed_everything_default=42,
                parser_kwargs={**parsing, **{name: dict(parsing) for name in SUBCOMMANDS}},
                auto_configure_optimizers=False,
                args=args,
            )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--debug", action="store_true", help="Show the traceback of errors in the configuration.")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)
        seed = self.config[self.config["subcommand"]].get("seed_everything")
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything is {seed}: a number from 0 to {2**32 - 1} is needed")

    @override
    def _parse_ckpt_path(self) -> None:
        """Check ``ckpt_path`` instead of letting a checkpoint's hyper-parameters replace the configuration."""
        subcommand = self.config["subcommand"]
        options = self.config[subcommand]
        ckpt_path = options.get("ckpt_path")
        if ckpt_path is None or (subcommand == "fit" and ckpt_path == "last"):
            return
        if ckpt_path in ("last", "best", "hpc"):
            raise ConfigError(
                f"{subcommand} --ckpt_path {ckpt_path} is not possible in a new process: give the path of a .ckpt file "
                "or the exported weights as --model.init_args.weights DIR"
            )
        if not Path(ckpt_path).exists():
            raise ConfigError(f"checkpoint {ckpt_path} does not exist")
        check_checkpoint_class(ckpt_path, options["model"]["class_path"])

    @override
    def before_instantiate_classes(self) -> None:
        self.save_config_kwargs["config_filename"] = f"{self.subcommand}.yaml"
        options = self.config[self.subcommand]
        root = Path(options["trainer"]["default_root_dir"])
        try:
            self._held.enter_context(made(root))  # Weights & Biases falls back to /tmp without it
        except OSError as error:
            raise ConfigError(f"trainer.default_root_dir {root} cannot be made: {error.strerror}") from error
        for logger in _as_list(options["trainer"].get("logger")):
            if is_wandb(logger):
                find_room(Path(logger.init_args.get("save_dir") or root))
        if self.subcommand == "fit":
            if is_rank_zero():  # two runs would write one last.ckpt.partial, and each other's best weights
                self._held.enter_context(claimed(root, "--trainer.default_root_dir"))
                self._held.enter_context(undone_unless(self._has_begun, [root / "fit.yaml", root / RUN_ID]))
            last = root / "checkpoints" / "last.ckpt"
            if options.get("ckpt_path") == "last" and last.exists():
                check_checkpoint_class(str(last), options["model"]["class_path"], readable=False)
            if options.get("ckpt_path") is None and last.exists():
                rank_zero_warn(
                    f"{root} has results of an earlier run, which this run replaces: --ckpt_path last goes on with "
                    "that run, another --trainer.default_root_dir keeps both"
                )
            for logger in _as_list(options["trainer"].get("logger")):
                silence_offline_wandb(logger)
                name_wandb_run(logger, root / RUN_ID, resumes=options.get("ckpt_path") == "last")

    def _has_begun(self) -> bool:
        trainer: Trainer | None = getattr(self, "trainer", None)
        return trainer is not None and trainer.fit_loop.epoch_loop.batch_progress.total.ready > 0

    def before_predict(self) -> None:
        """Do not gather predictions in memory: callbacks write them as they are made."""
        options = self.config_init["predict"]
        options["return_predictions"] = bool(options.get("return_predictions"))

    def before_test(self) -> None:
        """Print results in one line, see :meth:`after_test`."""
        self._print_results_ourselves("test")

    def before_validate(self) -> None:
        """Print results in one line, see :meth:`after_validate`."""
        self._print_results_ourselves("validate")

    def after_test(self) -> None:
        """Print what was found."""
        self._print_results("test")

    def after_validate(self) -> None:
        """Print what was found."""
        self._print_results("val")

    def _print_results(self, stage: str) -> None:
        if self.trainer.is_global_zero:
            print(metrics_line(stage, self.trainer.callback_metrics), flush=True)

    def _print_results_ourselves(self, subcommand: str) -> None:
        self.config_init[subcommand]["verbose"] = is_verbose()

    @override
    def instantiate_classes(self) -> None:
        wrapped = None
        trainer = self.config[self.subcommand]["trainer"]
        sharded = "ModelParallelStrategy" in str(trainer.get("strategy"))
        low = computes_in_bfloat16(trainer.get("accelerator"), trainer.get("precision"))
        try:
            with loading(frozen_in_bfloat16=low, deferred=sharded):  # of sharded weights each rank reads its part alone
                super().instantiate_classes()
        except ValueError as error:
            wrapped = error
        if wrapped is not None:  # outside of the handler, so that the traceback shows the class's own error alone
            raise what_the_class_raised(wrapped)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options: dict[str, Any] = self._get(self.config_init, "trainer", default={})
        if self.subcommand == "predict" and not self._get(self.config_init, "return_predictions"):
            refuse_unwritten(_as_list(options.get("callbacks")))
        ending = EndBySignal()
        fellows = FellowRanks(ending.status_of)
        options["callbacks"] = [
            fellows,
            HungRanks(fellows.lost),
            *_as_list(options.get("callbacks")),
            *self._standing_callbacks(options),
            ending,
        ]
        plugins = _as_list(options.get("plugins"))
        sharded = any(name in str(options.get("strategy")).lower() for name in ("fsdp", "deepspeed"))
        if not sharded and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            options["plugins"] = [*plugins, AtomicCheckpointIO(moments=self.subcommand == "fit")]
        if type(options.get("strategy")) is ModelParallelStrategy:
            options["strategy"] = ShardedStrategy.of(options["strategy"])
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except RuntimeError as error:
            if "SLURM" not in str(error):
                raise
            devices, nodes = (str(options.get(name)) for name in ("devices", "num_nodes"))
            wanted = [int(number) if number.isdigit() else 1 for number in (devices, nodes)]
            raise ConfigError(f"trainer: {' '.join(str(error).split())} That is, {slurm.way_out(*wanted)}") from error
        except (ValueError, TypeError, ModuleNotFoundError) as error:  # of an accelerator without its package
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        if isinstance(environment := cluster_environment(trainer), SLURMEnvironment):
            environment.auto_requeue = False  # Lightning would write in the middle of a batch, and train on
            slurm.check_tasks(trainer.num_devices, trainer.num_nodes, os.environ)
        if isinstance(launcher := trainer.strategy.launcher, SubprocessLauncher):
            set_launcher(trainer, RankLauncher(launcher, fellows.lost))
        return trainer

    def _standing_callbacks(self, options: dict[str, Any]) -> list[Callback]:
        callbacks = _as_list(options.get("callbacks"))
        standing: list[Callback] = []
        if not any(isinstance(callback, StepSeed) for callback in callbacks):
            seed = self._get(self.config, "seed_everything")
            standing.append(StepSeed(seed=int(seed) if isinstance(seed, int) else 0))
        if self.subcommand == "fit":
            standing.append(ResumedSettings(settings_of(self.config["fit"].as_dict())))
        wanted = options.get("enable_progress_bar") is not False
        if wanted and not bar_is_visible() and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            standing.append(ProgressLines())
        return standing


def refuse_unwritten(callbacks: Sequence[Callback]) -> None:
    """Refuse a run of ``predict`` of which nothing would be left.

    Args:
        callbacks: The configuration's own.

    Raises:
        ConfigError: None of them looks at predictions.
    """
    hooks = ("on_predict_batch_end", "on_predict_epoch_end", "on_predict_end")
    if not any(
        getattr(type(callback), hook) is not getattr(Callback, hook) for callback in callbacks for hook in hooks
    ):
        raise ConfigError(
            "nothing would be kept of what predict makes: give trainer.callbacks one that writes it "
            "(callbacks.RecordWriter for teacher and checkers, callbacks.PredictionWriter for students)"
        )


def check_checkpoint_class(path: str, class_path: str, readable: bool = True) -> None:
    """Refuse a checkpoint that another module class wrote.

    Args:
        path: The checkpoint: a file, or a folder with a part of each rank.
        class_path: The module class of the configuration.
        readable: Refuse what is no checkpoint, too; otherwise that is left to whoever reads it.

    Raises:
        ConfigError: The file is not a checkpoint, or one of another class.
    """
    file = Path(path) / PLAIN_VALUES if Path(path).is_dir() else path
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        written_by = checkpoint.get(WRITTEN_BY)
    except Exception as error:  # a damaged file may raise anything
        if not readable:
            return
        raise ConfigError(f"checkpoint {path} is not readable as a checkpoint of tensors and plain values") from error
    # classes are compared, not where their files are
    if written_by is not None and written_by.rpartition(".")[2] != class_path.rpartition(".")[2]:
        raise ConfigError(
            f"checkpoint {path} was written by {written_by}, the configuration names {class_path}: checkpoints are for "
            "resuming the same stage, the next stage reads the exported weights (--model.init_args.weights DIR)"
        )


def what_the_class_raised(error: Exception) -> Exception:
    """Return what a class's ``__init__`` raised, which jsonargparse reports as a value of no accepted type.

    Args:
        error: What jsonargparse raised.
    """
    while str(error).startswith("Does not validate against any") and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
