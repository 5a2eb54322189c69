"""Settings that make a stage smaller, tried one by one and then together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from planning.machine import Machine
from planning.stage import Stage


@dataclass(frozen=True)
class WayOut:
    """A change that was tried.

    Attributes:
        settings: As they would be written on the command line.
        stage: The stage with them.
        bytes: About what a rank's tensors take then.
    """

    settings: tuple[str, ...]
    stage: Stage
    bytes: int


def smaller(stage: Stage, machine: Machine) -> Iterator[tuple[str, Callable[[Stage], Stage]]]:
    """Yield settings that would need less memory, the cheapest ones first."""
    options = stage.options
    unit = options.get("micro_batch_size") or (stage.questions * (1 if stage.is_grpo else stage.completions))
    if not options.get("gradient_checkpointing"):
        yield "model.init_args.gradient_checkpointing=true", lambda s: s.with_options(gradient_checkpointing=True)
    if unit > 1:
        half = unit // 2
        yield f"model.init_args.micro_batch_size={half}", lambda s: s.with_options(micro_batch_size=half)
        if half > 1:
            yield "model.init_args.micro_batch_size=1", lambda s: s.with_options(micro_batch_size=1)
    if options.get("gradient_checkpointing") and not options.get("activation_offload"):
        yield "model.init_args.activation_offload=true", lambda s: s.with_options(activation_offload=True)
    sharding = options.get("sharding") or {}
    if stage.sharded and sharding.get("param_dtype", "auto") == "float32":
        yield (
            "model.init_args.sharding.param_dtype=auto",
            lambda s: s.with_options(sharding=sharding | {"param_dtype": "auto"}),
        )
    full = not options.get("lora")
    if full and options.get("optimizer", "adamw") == "adamw":
        yield "model.init_args.optimizer=adamw8bit", lambda s: s.with_options(optimizer="adamw8bit")
    wide = not str(options.get("reference_dtype", "auto")).endswith("16") and not (
        machine.is_gpu and options.get("reference_dtype", "auto") == "auto"
    )
    beside = stage.is_grpo and full and options.get("beta") and not options.get("reference_urls")
    if beside and wide:
        yield (
            "model.init_args.reference_dtype=bfloat16",
            lambda s: s.with_options(reference_dtype="bfloat16"),
        )
    if beside and options.get("temperature", 1) == 1:
        yield (
            "model.init_args.reference_urls=[URL of a server with the SFT policy]",
            lambda s: s.with_options(reference_urls=["http://127.0.0.1:8100"]),
        )
    if not full and options.get("dtype", "auto") == "float32":
        yield "model.init_args.dtype=auto", lambda s: s.with_options(dtype="auto")
    if stage.ranks > 1 and not stage.sharded:
        strategy = {
            "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
            "init_args": {"data_parallel_size": stage.ranks, "tensor_parallel_size": 1},
        }
        yield (
            f"trainer.strategy=ModelParallelStrategy (data_parallel_size {stage.ranks}, tensor_parallel_size 1)",
            lambda s: replace(s, trainer=s.trainer | {"strategy": strategy}),
        )
    if full:
        yield (
            "model.init_args.lora={rank: 8, alpha: 16}",
            lambda s: s.with_options(lora={"rank": 8, "alpha": 16}),
        )


def ways_out(
    stage: Stage, machine: Machine, limit: int, measure: Callable[[Stage], int]
) -> tuple[list[WayOut], WayOut | None]:
    """Try single settings, and all of them one after the other where none suffices.

    Args:
        stage: What does not fit.
        machine: Where it is to run.
        limit: Bytes that fit.
        measure: Returns about what a stage takes.

    Returns:
        The single settings that were tried, and what fits at last; None where nothing does.
    """
    tried = [WayOut((name,), change(stage), 0) for name, change in smaller(stage, machine)]
    tried = [replace(way, bytes=measure(way.stage)) for way in tried]
    fitting = next((way for way in tried if way.bytes <= limit), None)
    if fitting is not None:
        return tried, fitting
    together, names = stage, tuple[str, ...]()
    for name, change in smaller(stage, machine):
        together, names = change(together), (*names, name)
        if len(names) > 1 and (size := measure(together)) <= limit:
            return tried, WayOut(names, together, size)
    return tried, None
