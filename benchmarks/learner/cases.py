"""What is measured of the learner's step: the cases, and both systems at each of them."""

import argparse
import time
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measuring import conventional
from benchmarks.measuring.learner_steps import SYSTEMS, Conventional, Measured, Ours, Setting
from benchmarks.measuring.learner_world import World
from benchmarks.measuring.needed_flops import audio_flops, grpo_flops, sft_flops
from benchmarks.measuring.run_record import spread
from benchmarks.measuring.shapes import SHAPES
from datamodules.batching.batch import AudioQABatch

TARGETS = {"grpo": 3.5, "grpo memory": 0.5, "sft": 1.25, "sft cached": 1.5, "sft four traces": 2.2}
BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)


def setting_of(options: argparse.Namespace) -> Setting:
    """Return what both systems are built for."""
    dtype = getattr(torch, options.dtype)
    return Setting(SHAPES[options.shape], options.device, dtype, options.checkpointing, options.clock)


def cases_of(options: argparse.Namespace, world: World) -> dict[str, AudioQABatch]:
    """Return the batches that are measured, of the tasks that are wanted; eight traces in each batch of SFT."""
    eight = world.collator(world.sft_examples(8, 1, options.seconds))
    cases = {
        "grpo": world.grpo_batch(options.questions, options.group, options.tokens, options.seconds),
        "sft": eight,
        "sft cached": eight,
        "sft four traces": world.collator(world.sft_examples(2, 4, options.seconds)),
    }
    return {case: batch for case, batch in cases.items() if case.split()[0] in options.tasks}


def measure(options: argparse.Namespace, world: World) -> dict[str, Any]:
    """Measure times; the first round warms up.

    On the CPU both systems alternate, because the machine may be busier at one time than at another. On a GPU they come
    one after the other, because both may not fit into its memory.
    """
    setting, cases = setting_of(options), cases_of(options, world)
    theirs: dict[str, Measured] = {}
    mine: dict[str, Measured] = {}
    if options.device == "cpu":
        ours, other = Ours(setting, world), Conventional(setting, world)
        for case, batch in cases.items():
            theirs[case], step = other.steps(case, batch)
            mine[case] = ours.take(case, batch, options.rounds, between=step)
    else:
        for system, found in ((Conventional, theirs), (Ours, mine)):
            one: Conventional | Ours = system(setting, world)
            found.update({case: one.take(case, batch, options.rounds) for case, batch in cases.items()})
            del one
            torch.cuda.empty_cache()
    return {case: compared(case, mine[case], theirs[case], batch, options) for case, batch in cases.items()}


def compared(
    case: str, ours: Measured, other: Measured, batch: AudioQABatch, options: argparse.Namespace
) -> dict[str, Any]:
    """Return what was measured of one case, and how often the conventional step's time ours fits in."""
    shape = SHAPES[options.shape]
    flops = (grpo_flops if case == "grpo" else sft_flops)(shape, batch)
    flops -= audio_flops(shape, batch) if case.endswith("cached") else 0.0
    row: dict[str, Any] = {"bar": TARGETS.get(case)}
    for name, measured in (("ours", ours), ("conventional", other)):
        row[name] = measured.summary()
        if measured.seconds:
            row[name] |= throughput(batch, flops, row[name], options)
    if ours.seconds and other.seconds:
        assert ours.result is not None and other.result is not None
        row["ratio"] = spread([theirs / mine for theirs, mine in zip(other.seconds, ours.seconds, strict=True)], 2)
        row["largest_difference"] = float((ours.result.float() - other.result.float()).abs().max())
        print(f"{case}: {row['ratio']} times the conventional step", flush=True)
    return row


def throughput(
    batch: AudioQABatch, flops: float, summary: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Return completion tokens per second and the share of the device's speed that needed work makes up."""
    assert batch.completions is not None
    seconds = summary["seconds"]["median"]
    return {
        "completion_tokens_per_s": round(int(batch.completions.mask.sum()) / seconds, 1),
        "needed_tflops": round(flops / 1e12, 3),
        "flops_utilisation": round(flops / seconds / options.peak, 3),
    }


def attention_backends(options: argparse.Namespace, world: World) -> dict[str, Any]:
    """Return seconds of our GRPO step under each of PyTorch's attention kernels, or why one cannot be used."""
    ours = Ours(setting_of(options), world)
    batch = world.grpo_batch(options.questions, options.group, options.tokens, options.seconds)
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        try:
            with sdpa_kernel([backend]):
                measured = ours.take("grpo", batch, options.rounds)
        except RuntimeError as error:
            found[backend.name] = str(error).splitlines()[0]
            continue
        found[backend.name] = measured.summary()["seconds"] or "out of memory"
    return found


def collating(world: World, rounds: int = 8) -> dict[str, float]:
    """Return seconds for collating eight 10-second clips, in the loader's workers and in the conventional way."""
    examples = world.sft_examples(8)
    seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(rounds):
        begun = time.perf_counter()
        batch = world.collator(examples)
        seconds["ours"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        conventional.rows_of(world.processor, batch)
        seconds["conventional"].append(time.perf_counter() - begun)
    return {name: spread(values)["median"] for name, values in seconds.items()}
