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

    The figures in ``configs/hardware`` come from NVIDIA's data sheets of the A40 (nvidia-a40-datasheet.pdf: 149.7 dense
    bfloat16 TFLOP/s, 696 GB/s, PCIe 4.0 x16, which is 31.5 GB/s each way), of the H100 SXM (1,979 TFLOP/s with
    sparsity, half of it without, 3.35 TB/s, NVLink 900 GB/s both ways together; the PCIe card has 756 dense TFLOP/s
    and 2 TB/s, the H200 the SXM's arithmetic and 4.8 TB/s) and of the L4 (242 TFLOP/s with sparsity, 300 GB/s; an RTX
    4090 has 165.2 dense ones and 1,008 GB/s by the white paper of its architecture). Memory is what
    ``torch.cuda.get_device_properties`` reports, which error correction and the driver have taken their part of:
    45,416 MiB of an A40, 81,082 of an H100 of 80 GB, 143,156 of an H200, 22.0 GiB of an L4 and 23.6 of an RTX 4090.
    Networks and main memory are those of usual nodes.

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
