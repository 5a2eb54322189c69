"""One stage of ``train.py``, from its arguments to its end."""

import os
import sys
from collections.abc import Sequence

import wandb

from cli.config_layers import resolve_configs
from cli.console import finish_wandb, quieten, take_verbose
from cli.ending import ended_by_signals
from cli.error_messages import user_sentence
from cli.export import export
from cli.lightning_cli import SightSoundCLI
from cli.plan import plan
from cli.variables import check_variables
from cli.wandb_service import leave_inherited_service


@ended_by_signals()
def run_command(args: Sequence[str]) -> SightSoundCLI:
    """Run one stage.

    Args:
        args: Command-line arguments.

    Returns:
        The CLI with its trainer, model and datamodule.

    Raises:
        SystemExit: After printing one sentence, when the configuration, a file or a server is at fault, or when SIGTERM
            (status 143) or SIGINT (130) has come. Anything else that is raised is an error of the program and keeps its
            traceback.
    """
    args = list(args)
    take_verbose(args)
    debug = "--debug" in args or bool(os.environ.get("SIGHTSOUND_DEBUG"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # DataLoader workers fork
    quieten()
    leave_inherited_service()
    configs: list[str] = []
    earlier_run, status = wandb.run, 1
    try:
        args, configs = resolve_configs(args)
        check_variables(os.environ, configs)
        if args[:1] == ["plan"]:
            status = plan(args[1:], configs)
            raise SystemExit(status)
        if args[:1] == ["export"]:
            export(args[1:])
            raise SystemExit(0)
        cli = SightSoundCLI(args)
        status = 0
        return cli
    except Exception as error:
        found = user_sentence(error, configs)
        if debug or found is None:
            raise
        sentence, status = found
        print(f"train.py: {sentence}", file=sys.stderr, flush=True)
        raise SystemExit(status) from error
    finally:
        if wandb.run is not None and wandb.run is not earlier_run:
            finish_wandb(status)  # otherwise the next stage in this process would log into the same run
