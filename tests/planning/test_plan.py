"""The command, and that each shipped overlay fits for the sake of its settings."""

import dataclasses
import itertools
import re
import time
from pathlib import Path

import pytest

from cli.config_files import CONFIG_FOLDER
from cli.config_layers import resolve_configs
from cli.plan import ConfigurationOnly, own_options, stage_of
from planning.estimate import Assumptions
from planning.machine import read_machine
from planning.rehearsal import Rehearsed
from planning.report import GIB, room
from planning.stage import Stage, about_peak, rehearse_stage
from train import main

ROOT = CONFIG_FOLDER.parent
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
    """The same without what its overlay and its own file save most by."""
    return dataclasses.replace(stage.with_options(lora=None), trainer=stage.trainer | {"strategy": "auto"})


def written_of(overlay: str, stage: str) -> list[float]:
    """The row of the table in docs/devices.md: planned peak and room, GiB."""
    lines = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `hardware/{overlay}.yaml` | `{stage}.yaml` |")]
    return [float(cell) for cell in row.split("|")[3:5]]


def check_words(overlay: str, stage: str, found: Rehearsed, limit: int) -> None:
    """What documents and the overlay's own header say is what the plan says."""
    exact = pytest.approx([found.peak.bytes / GIB, limit / GIB], abs=0.05)
    assert written_of(overlay, stage) == exact, "docs/devices.md"
    header = (CONFIG_FOLDER / "hardware" / f"{overlay}.yaml").read_text(encoding="utf-8")
    said = re.findall(r"(\w+)\.yaml is planned to take (\d+) of the (\d+) GiB", header)
    for _, peak, room_there in (words for words in said if words[0] == stage):
        assert (int(peak), int(room_there)) == (round(found.peak.bytes / GIB), round(limit / GIB))
    if (overlay, stage) == ("8xa40", "grpo"):
        text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
        for kind, size in found.peak.kinds.items():
            assert size < GIB / 200 or f"| {kind} | {size / GIB:.2f} |" in text, kind


@pytest.mark.slow
@pytest.mark.parametrize(("overlay", "stage"), itertools.product(OVERLAYS, ["grpo", "sft"]))
def test_each_overlay_fits_for_its_settings(overlay: str, stage: str, tmp_path: Path) -> None:
    planned, machine = stage_and_machine(stage, overlay)
    limit = room(machine, Assumptions())
    begun = time.process_time()
    found = rehearse_stage(planned, machine)
    assert time.process_time() - begun < 60
    assert found.peak.bytes <= limit
    check_words(overlay, stage, found, limit)
    assert about_peak(without_a_saving(planned), machine, tmp_path) > limit
