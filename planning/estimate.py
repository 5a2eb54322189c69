"""How long a step may take under stated assumptions, on one node and on many."""

from dataclasses import dataclass

from planning.machine import Machine
from planning.rehearsal import Rehearsed
from planning.stage import Stage

GROWTH = (1, 2, 4, 8, 16, 32, 64)
"""Nodes that an estimate is made for."""


@dataclass(frozen=True)
class Assumptions:
    """What an estimate stands on.

    Attributes:
        mfu: Share of the devices' arithmetic that a step reaches.
        decode: Share of the memory bandwidth that a server reaches while it writes tokens.
        sequences: Sequences that a server writes at once.
        bandwidth: Share of the links' and the network's bandwidth that is reached.
        reserve_gib: Memory of a device that is not torch's tensors: context, libraries, buffers of collectives.
        fragmentation: Share of the tensors' memory that lies idle between them.
        process_gib: Main memory of a rank: Python, libraries, pinned buffers.
        worker_gib: Main memory of a worker that loads data.
    """

    mfu: float = 0.4
    decode: float = 0.5
    sequences: int = 256
    bandwidth: float = 0.7
    reserve_gib: float = 1.5
    fragmentation: float = 0.05
    process_gib: float = 4.0
    worker_gib: float = 0.7


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        learner: Forward and backward passes, collectives beside them, and the optimizer.
        collectives: Of that, what collectives would take by themselves.
        rollouts: Completions, where there are any.
        push: Weights to the servers.
        tokens: Prompt and completion tokens of all ranks in a step.
        nodes: Of the machine.
    """

    learner: float
    collectives: float
    rollouts: float
    push: float
    tokens: int
    nodes: int

    @property
    def seconds(self) -> float:
        """One after the other: the server waits for the learner, the learner for the server."""
        return self.learner + self.rollouts + self.push


def step_time(
    stage: Stage, found: Rehearsed, machine: Machine, assumed: Assumptions, prompt: int, nodes: int | None = None
) -> StepTime:
    """Estimate a step; each node that is added brings its own batches and servers.

    Args:
        stage: The stage.
        found: What a rank needs.
        machine: Where it runs.
        assumed: What the estimate stands on.
        prompt: Tokens of a prompt, audio included.
        nodes: Of the machine, its own unless given.
    """
    planned = int(stage.trainer.get("num_nodes") or 1)
    nodes = nodes or planned
    of_node = stage.ranks // planned
    ranks = of_node * nodes
    compute = sum(found.flops.values()) / (machine.tflops * 1e12 * assumed.mfu)
    copies = stage.copies if stage.copies == 1 else stage.copies * nodes // planned
    network = machine.link_gb_s if nodes == 1 else min(machine.link_gb_s, machine.network_gb_s / of_node)
    link = machine.link_gb_s if ranks // copies <= of_node else network
    talk = found.collectives.shared(ranks // copies) / link + found.collectives.summed(copies) / network
    talk /= 1e9 * assumed.bandwidth
    # AdamW reads weights, gradients and two moments, and writes all but the gradients
    optimizer = 7 * found.trained / (ranks // copies) / (machine.memory_gb_s * 1e9)
    rollouts = push = 0.0
    if stage.is_grpo:
        servers = nodes * (machine.servers or (1 if machine.server_share else 0)) or 1
        at_once = -(-ranks * stage.questions * stage.completions // servers)
        waves = -(-at_once // assumed.sequences)
        a_token = found.weights / (machine.memory_gb_s * 1e9 * assumed.decode)
        rollouts = waves * stage.lengths.completion * a_token
        push = found.weights / (min(machine.link_gb_s, machine.network_gb_s * nodes) * 1e9 * assumed.bandwidth)
    batch = stage.questions * (prompt + stage.completions * stage.lengths.completion) * stage.gathered
    return StepTime(max(compute, talk) + optimizer, talk, rollouts, push, ranks * batch, nodes)
