"""The command line of every stage: ``python train.py {fit,validate,test,predict,plan,export} --config NAME.yaml``.

What takes seconds to import is imported once it is known that there is something to do.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.overview import show_overview

if TYPE_CHECKING:
    from cli.lightning_cli import SightSoundCLI


def main(args: Sequence[str] | None = None) -> "SightSoundCLI":
    """Run one stage.

    Args:
        args: Command-line arguments; those of the process when None.

    Returns:
        The CLI with its trainer, model and datamodule.

    Raises:
        SystemExit: After printing one sentence, when the configuration, a file or a server is at fault, or when SIGTERM
            (status 143) or SIGINT (130) has come. Anything else that is raised is an error of the program and keeps its
            traceback.
    """
    args = list(sys.argv[1:] if args is None else args)
    show_overview(args)
    from cli.command import run_command

    return run_command(args)


def run() -> None:
    """Run one stage as the process' only work."""
    from cli.ending import Ended
    from cli.ranks import leave

    try:
        main()
    except Ended as ended:
        leave(ended.status)


if __name__ == "__main__":
    show_overview(sys.argv[1:])
    from cli.ranks import end_with_launcher, run_rank

    end_with_launcher()
    run_rank(run)
