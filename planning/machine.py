"""The machine that is planned for: a JSON file beside a configuration of its name."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError


@dataclass(frozen=True)
class Machine:
    """What data sheets say of it.

    Attributes:
        device: What its devices are called.
        device_memory_gib: Memory of a device that programs can have.
        devices: Devices of a node.
        nodes: Its nodes.
        servers: Devices of each node that rollout servers have to themselves.
        server_share: Share of a training device's memory that a server has.
        tflops: Dense bfloat16 arithmetic of a device, 1e12 a second.
        memory_gb_s: Bandwidth of its memory.
        link_gb_s: Bandwidth between devices of a node, each way, of a device.
        network_gb_s: Bandwidth of a node to others, each way.
        host_memory_gib: Main memory of a node.
    """

    device: str
    device_memory_gib: float
    devices: int
    nodes: int
    servers: int
    server_share: float
    tflops: float
    memory_gb_s: float
    link_gb_s: float
    network_gb_s: float
    host_memory_gib: float

    @property
    def is_gpu(self) -> bool:
        """Whether its devices are GPUs."""
        return self.device != "cpu"


def read_machine(path: Path) -> Machine:
    """Read a machine's facts.

    Args:
        path: A JSON file.

    Raises:
        UserError: It is not there, or lacks a fact.
    """
    wanted = {field.name for field in dataclasses.fields(Machine)}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the machine's facts cannot be read from {path}: {error}") from error
    if not isinstance(facts, dict) or facts.keys() != wanted:
        found = set(facts) if isinstance(facts, dict) else set()
        raise UserError(
            f"{path}: a machine has exactly the facts {', '.join(sorted(wanted))}; "
            f"missing {sorted(wanted - found)}, unknown {sorted(found - wanted)}"
        )
    return Machine(**facts)


def machine_beside(configs: Sequence[str]) -> Path | None:
    """Return the last JSON file that lies beside a configuration and has its name, or None.

    Args:
        configs: Paths of configuration files.
    """
    beside = [Path(config).with_suffix(".json") for config in configs]
    return next((path for path in reversed(beside) if path.is_file()), None)
