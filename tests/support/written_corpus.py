"""From mp4 files alone to a corpus, in the synthetic world: the chain of docs/own_videos.md on a folder of clips."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from corpus.__main__ import main as corpus_main
from mini.world.authoring import ASKED
from mini.world.corpus import write_media
from mini.world.endpoints import CHECKER, PRIOR, TEACHER, MiniEndpoints
from mini.world.scenes import draw_scene
from mini.world.sounds import SOUNDS
from tests.support.stages import stage_args
from train import main

STAGES: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...] = (
    ("questions", ("questions.yaml",), TEACHER, (f"--model.init_args.kinds={json.dumps([*ASKED])}",)),
    ("prior", ("teacher.yaml", "prior.yaml"), PRIOR, ()),
    ("teacher", ("teacher.yaml", "shuffled.yaml"), TEACHER, ("--model.init_args.samples=4",)),
    ("grounding", ("verify.yaml", "grounding.yaml"), CHECKER, ("--model.init_args.logprobs=true",)),
    ("verify", ("verify.yaml",), CHECKER, ("--model.init_args.logprobs=true",)),
)
"""Each stage's folder, configurations, model and further options; its input is what stands after the one before."""


def write_clips(root: Path, clips: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Write mp4 files into ``root/videos`` and nothing else; returns what is heard in each."""
    (root / "videos").mkdir(parents=True)
    heard = {}
    for number, scene_seed in enumerate(np.random.default_rng(seed).integers(2**62, size=clips).tolist()):
        scene = draw_scene(f"clip_{number:04d}", scene_seed, SOUNDS, silent=0.3, hidden=0.1, noise=0.05)
        write_media(str(root / "videos" / f"{scene.name}.mp4"), scene)
        heard[scene.name] = scene.heard
    return heard


def make_corpus(root: Path, runs: Path) -> None:
    """Let all stages run, with ``gather`` between them and ``finish`` at the end."""
    with MiniEndpoints() as endpoints:
        for stage, configs, model, options in STAGES:
            run_stage(stage, configs, model, options, root, runs, endpoints.url)
            if stage != "verify":
                corpus_main(["gather", str(root), "--runs", str(runs)])
    corpus_main(["finish", str(root), "--runs", str(runs), "--held-out", "0.1"])


def run_stage(
    stage: str, configs: tuple[str, ...], model: str, options: tuple[str, ...], root: Path, runs: Path, url: str
) -> None:
    """Run one stage in this process."""
    arguments = stage_args(configs, root, url, runs / stage)
    traces = (
        () if stage in ("questions", "prior", "teacher") else (f"--data.init_args.traces={runs / 'teacher/traces'}",)
    )
    named = [f"--model.init_args.endpoint.model={model}", "--model.init_args.endpoint.timeout=60"]
    main([*arguments, *named, *options, *traces, "--data.init_args.eval_batch_size=8"])


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of an annotation file."""
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found
