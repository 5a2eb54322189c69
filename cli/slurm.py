"""Whether a SLURM allocation has as many tasks as the run needs processes."""

from collections.abc import Mapping

from cli.config_files import ConfigError

_INTERACTIVE = ("bash", "interactive")
"""Names of jobs in which Lightning starts its processes by itself."""


def check_tasks(devices: int, nodes: int, environment: Mapping[str, str]) -> None:
    """Refuse an allocation in which ranks would be missing or the same rank would run several times.

    Under SLURM each task is one rank; nobody starts those that are missing, and the others would wait for them.

    Args:
        devices: Devices of the run on each node.
        nodes: Nodes of the run.
        environment: The process's environment.

    Raises:
        ConfigError: The tasks do not fit; the message says how to start the run, and how to keep SLURM out of it.
    """
    if "SLURM_NTASKS" not in environment or environment.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return
    tasks, needed = int(environment["SLURM_NTASKS"]), devices * nodes
    by_srun = "SLURM_STEP_ID" in environment
    if needed == 1 and not by_srun:
        return  # the one process of the run, in whatever allocation
    if tasks == needed and by_srun:
        return
    found = f"has {tasks} task{'s' * (tasks != 1)} (SLURM_NTASKS)" if tasks != needed else "was entered without srun"
    raise ConfigError(
        f"this SLURM allocation {found}, but trainer.devices {devices} on trainer.num_nodes {nodes} needs srun to "
        f"start {needed}: {way_out(devices, nodes)}"
    )


def way_out(devices: int, nodes: int) -> str:
    """Return how to start so many processes.

    Args:
        devices: Devices of the run on each node.
        nodes: Nodes of the run.
    """
    return (
        f"start with srun --nodes={nodes} --ntasks-per-node={devices} --kill-on-bad-exit=1 python train.py ..., or, on "
        "one node, let train.py start its processes itself with env -u SLURM_NTASKS python train.py ..."
    )
