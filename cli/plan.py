"""``python train.py plan --config grpo.yaml --config hardware/8xa40.yaml``: what a run needs, before it is begun."""

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from cli.config_files import ConfigError
from cli.heartbeat import under_way
from cli.lightning_cli import SightSoundCLI
from datamodules.batching.audio_tokens import audio_token_counts
from planning.estimate import Assumptions
from planning.fake_batch import FRAME_RATE
from planning.geometry import find_geometry
from planning.machine import Machine, machine_beside, read_machine
from planning.report import advice, report, room
from planning.stage import Lengths, Stage, about_peak, check_stage, rehearse_stage
from planning.ways_out import ways_out

COMPLETION, TRACES = 512, 4
"""Tokens of a completion and traces of a question where the configuration does not say how many there are."""


class ConfigurationOnly(SightSoundCLI):
    """Reads a stage's configuration and makes nothing of it."""

    @override
    def before_instantiate_classes(self) -> None:
        """Leave the disk alone."""

    @override
    def instantiate_classes(self) -> None:
        """Make nothing."""

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def plan(args: Sequence[str], configs: Sequence[str]) -> int:
    """Print a plan.

    Args:
        args: Arguments behind ``plan``: those of ``fit``, and the plan's own.
        configs: The configuration files among them.

    Returns:
        0 where it fits, 1 where it does not.
    """
    options, rest = own_options().parse_known_args(list(args))
    facts = Path(options.machine) if options.machine else machine_beside(configs)
    if facts is None:
        raise ConfigError(
            "plan needs a machine: add an overlay such as --config hardware/8xa40.yaml, or --machine FILE.json with "
            "its facts"
        )
    machine = read_machine(facts)
    values = ConfigurationOnly(["fit", *rest]).config["fit"].as_dict()
    stage = stage_of(values, machine, options)
    check_stage(stage)
    assumed = Assumptions(**{f.name: vars(options)[f.name] for f in dataclasses.fields(Assumptions)})
    prompt = options.prompt_tokens + int(audio_token_counts(_frames(options.clip_seconds))[1][0])
    data = (values.get("data") or {}).get("init_args") or {}
    kept = sum("Checkpoint" in str(callback.get("class_path")) for callback in values["trainer"].get("callbacks") or ())
    with under_way("plan: a step of the first rank is rehearsed without weights, which takes a minute or two"):
        found = rehearse_stage(stage, machine)
    weights = str(stage.options["weights"])
    if not Path(weights).is_dir():
        print(f"planned with the shapes of {find_geometry(weights, options.geometry).name}: {weights} is not here")
    print(report(stage, machine, found, assumed, prompt, int(data.get("num_workers") or 0), kept))
    limit = room(machine, assumed)
    if found.peak.bytes <= limit:
        return 0
    number = itertools.count(1)
    with tempfile.TemporaryDirectory() as scratch:

        def measure(other: Stage) -> int:
            with under_way(f"plan: it does not fit, way out {next(number)} is tried"):
                return about_peak(other, machine, Path(scratch))

        tried, fitting = ways_out(stage, machine, limit, measure)
    print(advice(tried, fitting, limit))
    return 1


def own_options() -> argparse.ArgumentParser:
    """Return the parser of what ``plan`` takes beside the options of ``fit``."""
    parser = argparse.ArgumentParser(
        "train.py plan", description=__doc__, add_help=True, allow_abbrev=False, epilog="All other options are fit's."
    )
    parser.add_argument("--machine", help="JSON file with the machine's facts; the last overlay's unless given")
    parser.add_argument("--geometry", help="a known student's name, or a folder with a config.json")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="length of a clip")
    parser.add_argument("--prompt-tokens", type=int, default=60, help="tokens of a prompt beside the audio")
    parser.add_argument("--completion-tokens", type=int, help="tokens of a completion; the configuration's limit")
    for field in dataclasses.fields(Assumptions):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default, help="assumed: %(default)s")
    return parser


def stage_of(values: dict[str, Any], machine: Machine, options: argparse.Namespace) -> Stage:
    """Take from a configuration what a step depends on.

    Args:
        values: The configuration of ``fit``.
        machine: Where it is to run.
        options: The plan's own options.
    """
    trainer, data = dict(values["trainer"]), (values.get("data") or {}).get("init_args") or {}
    if not str(trainer.get("devices")).isdigit():
        trainer["devices"] = machine.devices - machine.servers
    model = {"class_path": values["model"]["class_path"], "init_args": dict(values["model"]["init_args"])}
    asked = model["init_args"]
    limits = [(callback.get("init_args") or {}) for callback in trainer.get("callbacks") or ()]
    names = ("max_new_tokens", "eval_max_new_tokens") if "num_completions" in asked else ("eval_max_new_tokens",)
    found = [limit[name] for limit in limits for name in names if limit.get(name)]
    completion = options.completion_tokens or (found[0] if found else COMPLETION)
    return Stage(
        model,
        trainer,
        int(data.get("batch_size") or 1),
        int(asked.get("num_completions") or data.get("traces_per_item") or TRACES),
        Lengths(options.clip_seconds, options.prompt_tokens, completion),
        options.geometry,
    )


def _frames(seconds: float) -> Any:
    return np.array([round(FRAME_RATE * seconds)])
