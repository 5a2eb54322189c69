"""The plan in words and figures."""

from collections.abc import Iterator

from planning.estimate import GROWTH, Assumptions, StepTime, step_time
from planning.machine import Machine
from planning.memory import KINDS
from planning.rehearsal import Rehearsed
from planning.stage import Stage
from planning.ways_out import WayOut

GIB = 2**30


def room(machine: Machine, assumed: Assumptions) -> int:
    """Return the bytes that a rank's tensors may take on a device."""
    share = machine.device_memory_gib * (1 - machine.server_share) - assumed.reserve_gib
    return int(share * GIB / (1 + assumed.fragmentation))


def host_memory(stage: Stage, machine: Machine, found: Rehearsed, assumed: Assumptions, workers: int) -> float:
    """Return GiB of a node's main memory.

    Processes, what devices keep there, weights on their way to the servers in ``/dev/shm``, and of sharded weights and
    moments on GPUs the copy that a checkpoint is written from while training goes on.
    """
    nodes = int(stage.trainer.get("num_nodes") or 1)
    of_node = stage.ranks // nodes
    copies = stage.copies * checkpoint(stage, found) / nodes if stage.sharded and machine.is_gpu else 0
    servers = machine.servers + bool(machine.server_share)
    processes = of_node * (assumed.process_gib + workers * assumed.worker_gib) + servers * 2 * assumed.process_gib
    return processes + (found.weights + of_node * found.peak.elsewhere + copies) / GIB


def checkpoint(stage: Stage, found: Rehearsed) -> int:
    """Return bytes of weights and moments in a checkpoint; those of sharded weights have all moments in float32."""
    low = stage.sharded and stage.options.get("optimizer") == "adamw8bit"
    return found.trained + (2 * found.trained if low else found.state)


def report(
    stage: Stage, machine: Machine, found: Rehearsed, assumed: Assumptions, prompt: int, workers: int, kept: int
) -> str:
    """Return the plan's text, but for ways out.

    Args:
        stage: The stage.
        machine: Where it runs.
        found: What a rank needs.
        assumed: What estimates stand on.
        prompt: Tokens of a prompt, audio included.
        workers: Processes that load data, of each rank.
        kept: Checkpoints that are kept.
    """
    return "\n".join(_lines(stage, machine, found, assumed, prompt, workers, kept))


def _lines(
    stage: Stage, machine: Machine, found: Rehearsed, assumed: Assumptions, prompt: int, workers: int, kept: int
) -> Iterator[str]:
    nodes = int(stage.trainer.get("num_nodes") or 1)
    whole, trained, beside = found.parameters
    yield f"{stage.model['class_path']} of {stage.folder.name} on {stage.ranks} x {machine.device}"
    yield (
        f"  parameters        {whole / 1e9:.3f} B, {trained / 1e9:.3f} B trained"
        + (f", {beside / 1e9:.3f} B of a reference" if beside else "")
    )
    strategy = "weights shared by all ranks (FSDP2)" if stage.sharded else "weights whole on each rank"
    if stage.sharded and stage.copies > 1:
        strategy = f"{stage.copies} copies of the weights, each shared by {stage.ranks // stage.copies} ranks (FSDP2)"
    yield f"  ranks             {stage.ranks} on {nodes} node{'s' * (nodes > 1)}, {strategy}"
    yield (
        f"  batch of a rank   {stage.questions} questions x {stage.completions} completions in {stage.micro_batches} "
        f"micro-batch{'es' * (stage.micro_batches > 1)}; clips of {stage.lengths.seconds:g} s, prompts of {prompt} "
        f"tokens, completions of {stage.lengths.completion}"
    )
    yield f"memory of a rank at its peak ({found.peak.phase}), GiB"
    for kind in KINDS:
        if kind in found.peak.kinds:
            yield f"  {kind:<17} {found.peak.kinds[kind] / GIB:8.2f}"
    limit = room(machine, assumed)
    yield f"  {'in all':<17} {found.peak.bytes / GIB:8.2f}"
    shared = f", {machine.server_share:.0%} of it a server's" if machine.server_share else ""
    yield (
        f"  {'room':<17} {limit / GIB:8.2f} of {machine.device_memory_gib:g}{shared}, less {assumed.reserve_gib:g} for "
        f"context and libraries and {assumed.fragmentation:.0%} between tensors"
    )
    yield f"  {'verdict':<17} {'fits' if found.peak.bytes <= limit else 'does not fit'}"
    host = host_memory(stage, machine, found, assumed, workers)
    yield f"main memory of a node, about {host:.0f} GiB of {machine.host_memory_gib:g}" + (
        "" if host <= machine.host_memory_gib else ": does not fit"
    )
    yield "a step"
    yield f"  arithmetic        {sum(found.flops.values()) / 1e12:.1f} TFLOP on each rank"
    sent = found.collectives.shared(stage.ranks // stage.copies) + found.collectives.summed(stage.copies)
    yield (
        f"  collectives       {sent / GIB:.2f} GiB sent by each rank"
        + "".join(f"; {kind} {size / GIB:.2f}" for kind, size in sorted(found.collectives.bytes.items()) if size)
    )
    yield f"  values waited for {found.reads}"
    if stage.is_grpo:
        yield f"  weights pushed    {found.weights / GIB:.2f} GiB"
    own = checkpoint(stage, found)
    yield (
        f"on disk             {kept} checkpoints of {own / GIB:.2f} GiB, one more while it is written; exported "
        f"weights {found.exported / GIB:.2f} GiB, twice while they are written"
    )
    yield (
        f"time of a step, estimated: MFU {assumed.mfu:.0%} of {machine.tflops:g} TFLOP/s, links {machine.link_gb_s:g} "
        f"GB/s, network {machine.network_gb_s:g} GB/s of a node ({assumed.bandwidth:.0%} reached), memory "
        f"{machine.memory_gb_s:g} GB/s"
    )
    yield "  nodes  ranks   learner  collectives  rollouts    push     step    tokens/s"
    for count in sorted({nodes, *GROWTH}):
        yield _row(step_time(stage, found, machine, assumed, prompt, count), stage, nodes)


def _row(time: StepTime, stage: Stage, nodes: int) -> str:
    ranks = stage.ranks // nodes * time.nodes
    return (
        f"  {time.nodes:>5} {ranks:>6} {time.learner:>8.1f}s {time.collectives:>11.1f}s {time.rollouts:>8.1f}s "
        f"{time.push:>6.1f}s {time.seconds:>7.1f}s {time.tokens / time.seconds:>11,.0f}"
    )


def advice(tried: list[WayOut], fitting: WayOut | None, limit: int) -> str:
    """Return what settings would do.

    Args:
        tried: Single settings.
        fitting: What fits.
        limit: Bytes that fit.
    """
    lines = ["settings, each by itself (about, from students of few layers), GiB"]
    for way in tried:
        verdict = "fits" if way.bytes <= limit else "does not fit"
        lines.append(f"  {way.bytes / GIB:8.2f}  {verdict:<12}  --{way.settings[0]}")
    if fitting is None:
        lines.append("nothing of this makes it fit: take more devices, larger ones or a smaller student")
    else:
        lines.append(
            f"it would fit ({fitting.bytes / GIB:.2f} GiB) with " + " ".join(f"--{s}" for s in fitting.settings)
        )
    return "\n".join(lines)
