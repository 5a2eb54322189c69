"""The whole GRPO step, with rollouts and weight pushes: the ``step`` task of ``python -m benchmarks.learner``.

Ours is GRPOModule in a real Trainer whose rollouts come from a real vLLM server that is given the new weights before
each batch. The conventional step does all in one process with plain transformers and peft: ``generate`` on one row for
each completion, then the conventional learner. Both sample from the same student with random weights.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import conventional, training_run
from benchmarks.measuring.laps import now
from benchmarks.measuring.learner_world import World, build_model
from benchmarks.measuring.run_record import spread
from benchmarks.measuring.shapes import Shape, advantages_of
from benchmarks.measuring.training_run import WARM_UP, Questions
from callbacks.rollout.vllm_rollout import VLLMRollout
from datamodules.batching.batch import AudioQABatch, Completions
from inference.vllm_server import VLLMServer
from lightning_modules.grpo import GRPOModule
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.student import Student

PARTS = {"time/rollout": "rollout", "time/learner": "learner", "time/sync": "weight push"}


def measure(options: argparse.Namespace, shape: Shape, world: World) -> dict[str, Any]:
    """Measure both, one after the other; the first steps warm up."""
    found: dict[str, Any] = {}
    try:
        found["conventional"] = conventionally(options, shape, world)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        found["conventional"] = {"seconds": None, "parts": {}, "tokens": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        found["ours"] = ours(options, shape, world, folder)
    if found["conventional"]["seconds"]:
        theirs, mine = (found[name]["seconds"]["median"] for name in ("conventional", "ours"))
        print(f"whole step: {theirs / mine:.2f} times the conventional step", flush=True)
    return found


def ours(options: argparse.Namespace, shape: Shape, world: World, folder: str) -> dict[str, Any]:
    """Return seconds of our steps, their parts, and completion tokens of a step."""
    weights = Path(folder) / "student"
    Student.of_model(build_model(shape, world, dtype=getattr(torch, options.dtype)), world.processor).save_pretrained(
        weights
    )
    beside_the_learner = ["--gpu-memory-utilization", "0.3"] if options.device == "cuda" else []
    log = Path(folder) / "server.log"
    with VLLMServer(
        weights,
        dtype=options.dtype,
        max_model_len=4096,
        threads=options.threads,
        log_file=log,
        extra=beside_the_learner,
    ) as server:
        clock = training_run.run(
            GRPOModule(
                str(weights),
                num_completions=options.group,
                lora=LoRASettings(rank=8, alpha=16),
                dtype=options.dtype,
                gradient_checkpointing=options.checkpointing,
            ),
            VLLMRollout([server.url], max_new_tokens=options.tokens, seed=0),
            Questions(world, options.rounds + WARM_UP, options.questions, options.seconds),
            device=options.device,
            dtype=getattr(torch, options.dtype),
        )
    return {
        "seconds": spread(clock.steps),
        "parts": {name: spread(clock.part(part))["median"] for part, name in PARTS.items()},
        "tokens": spread([float(tokens) for tokens in clock.tokens[WARM_UP:]])["median"],
    }


def conventionally(options: argparse.Namespace, shape: Shape, world: World) -> dict[str, Any]:
    """Return the same of the conventional steps."""
    base = build_model(shape, world, options.device, getattr(torch, options.dtype))
    model = conventional.with_adapters(base, checkpointing=options.checkpointing)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    seconds, parts, tokens = [], [], []
    for number in range(options.rounds + 1):
        examples = [world.example(number * options.questions + b, options.seconds) for b in range(options.questions)]
        batch = world.collator(examples)
        begun = now(options.device)
        batch.completions = sample(model, world.processor, batch, options)
        sampled = now(options.device)
        rows = conventional.rows_of(world.processor, batch).to(options.device)
        conventional.grpo_step(model, rows, advantages_of(batch).to(options.device))
        optimizer.step()
        optimizer.zero_grad()
        ended = now(options.device)
        if number:
            seconds.append(ended - begun)
            parts.append({"rollout": sampled - begun, "learner": ended - sampled})
            tokens.append(float(batch.completions.mask.sum()))
    medians = {name: spread([part[name] for part in parts])["median"] for name in parts[0]}
    return {"seconds": spread(seconds), "parts": medians, "tokens": spread(tokens)["median"]}


def sample(model: Any, processor: Any, batch: AudioQABatch, options: argparse.Namespace) -> Completions:
    """Sample completions with transformers' ``generate``, one row for each."""
    prompts = conventional.prompts_of(processor, batch, options.group)
    output: Tensor = model.generate(
        **{name: value.to(options.device) for name, value in prompts.items()},
        do_sample=True,
        top_k=0,
        top_p=1.0,
        max_new_tokens=options.tokens,
        use_cache=True,
        suppress_tokens=[model.config.audio_token_id],  # which random weights would say, and the model then look for
    )
    ids = output[:, prompts["input_ids"].shape[1] :].cpu().unflatten(0, (len(batch), options.group))
    ended = (ids == processor.tokenizer.eos_token_id).long()
    mask = ended.cumsum(-1) - ended == 0  # up to and with the first end token
    texts = [processor.tokenizer.batch_decode(group, skip_special_tokens=True) for group in ids]
    return Completions(ids=ids, mask=mask, texts=texts, finished=ended.any(-1))
