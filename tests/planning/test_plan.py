"""The command, and that each shipped overlay fits for the sake of its settings."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from cli.config_files import CONFIG_FOLDER
from cli.config_layers import resolve_configs
from cli.plan import ConfigurationOnly, own_options, stage_of
from planning.estimate import Assumptions
from planning.machine import read_machine
from planning.report import room
from planning.stage import Stage, about_peak, rehearse_stage
from train import main

OVERLAYS = sorted(path.stem for path in (CONFIG_FOLDER / "hardware").glob("*.yaml"))


def stage_and_machine(stage: str, overlay: str) -> tuple[Stage, object]:
    machine = read_machine(CONFIG_FOLDER / "hardware" / f"{overlay}.json")
    args, _ = resolve_configs(["fit", "--config", f"{stage}.yaml", "--config", f"hardware/{overlay}.yaml"])
    values = ConfigurationOnly(args).config["fit"].as_dict()
    return stage_of(values, machine, own_options().parse_args([])), machine


@pytest.mark.integration
def test_a_plan_says_what_fits(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", "--config", "grpo.yaml", "--config", "hardware/8xa40.yaml", "--geometry", str(small)])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "6 x A40" in said and "verdict           fits" in said and "runs/sft/best is not here" in said
    assert "  64    384 " in said  # the growth to 64 nodes


@pytest.mark.integration
def test_a_plan_says_what_does_not_and_what_would(small: Path, tmp_path: Path, capsys) -> None:
    facts = (CONFIG_FOLDER / "hardware" / "1xh100.json").read_text().replace("79.1", "0.22")
    (tmp_path / "machine.json").write_text(facts.replace('"server_share": 0.4', '"server_share": 0'))
    config = ["plan", "--config", "sft.yaml", "--machine", str(tmp_path / "machine.json"), "--reserve-gib", "0"]
    with pytest.raises(SystemExit) as end:
        main([*config, "--geometry", str(small), "--model.init_args.gradient_checkpointing", "false"])
    said = capsys.readouterr().out
    assert end.value.code == 1
    assert "does not fit" in said and "--model.init_args.micro_batch_size=" in said.partition("it would fit")[2]


def test_without_a_machine_a_plan_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--config", "grpo.yaml"])
    assert "plan needs a machine" in capsys.readouterr().err


def without_a_saving(stage: Stage) -> Stage:
    """The same without the setting that its overlay or its own file saves most by."""
    if stage.sharded:
        return dataclasses.replace(stage, trainer=stage.trainer | {"strategy": "auto"})
    return stage.with_options(lora=None)


@pytest.mark.slow
@pytest.mark.parametrize(("overlay", "stage"), itertools.product(OVERLAYS, ["grpo"]))
def test_each_overlay_fits_for_its_settings(overlay: str, stage: str, tmp_path: Path) -> None:
    planned, machine = stage_and_machine(stage, overlay)
    limit = room(machine, Assumptions())
    if overlay == "8xa40":  # near the limit, where few layers do not tell enough
        assert rehearse_stage(planned, machine).peak.bytes <= limit
    else:
        assert about_peak(planned, machine, tmp_path / "planned") <= limit
    assert about_peak(without_a_saving(planned), machine, tmp_path / "other") > limit
