"""Every shipped configuration is accepted by the command line, says what it is for, and is not misspelt."""

import itertools
import os
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from cli.config_files import CONFIG_FOLDER
from train import main

CONFIGS = sorted(path.relative_to(CONFIG_FOLDER) for path in CONFIG_FOLDER.rglob("*.yaml"))
SWEEP = Path("sweep.yaml")


def launch(config: Path) -> list[str]:
    """Subcommand and configurations of the command that the file's own header gives."""
    command = next(line for line in header(config) if "train.py" in line).split("train.py ")[1].split()
    files = [name for flag, name in itertools.pairwise(command) if flag == "--config"]
    assert str(config) in files
    return [command[0], *itertools.chain.from_iterable(("--config", name) for name in files)]


def header(config: Path) -> list[str]:
    lines = (CONFIG_FOLDER / config).read_text(encoding="utf-8").splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    with pytest.raises(SystemExit) as end:
        main([*args, "--print_config"])
    out = capsys.readouterr()
    assert end.value.code == 0, out.err
    return yaml.safe_load(out.out)


@pytest.mark.parametrize("config", [c for c in CONFIGS if c != SWEEP], ids=str)
def test_accepted_by_the_command_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = printed(launch(config), capsys)
    assert "${" not in str(values), "an interpolation was left open"
    root = values["trainer"]["default_root_dir"]
    assert root.startswith("runs/") and root != "runs/unnamed"
    loggers = values["trainer"]["logger"] or []
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        assert logger["init_args"]["save_dir"] == root


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_opens_with_purpose_input_output_launch(config: Path) -> None:
    text = "\n".join(header(config))
    assert all(f"# {word}:" in text for word in ("Input", "Output", "Launch")), text


def test_paper_hyper_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    grpo = printed(["fit", "--config", "grpo.yaml"], capsys)
    policy = grpo["model"]["init_args"]
    assert (policy["num_completions"], policy["lr"], policy["temperature"], policy["beta"]) == (8, 1e-6, 1.0, 0.04)
    assert grpo["trainer"]["max_steps"] == 1000
    assert grpo["data"]["init_args"]["batch_size"] * policy["num_completions"] * 6 == 192  # candidates on 6 devices
    sft = printed(["fit", "--config", "sft.yaml"], capsys)
    lora = sft["model"]["init_args"]["lora"]
    assert (lora["rank"], lora["alpha"], sft["model"]["init_args"]["lr"]) == (8, 16, 5e-5)
    assert (sft["data"]["init_args"]["batch_size"], sft["trainer"]["max_steps"]) == (8, 2000)


def test_stages_hand_over_to_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    sft = printed(["fit", "--config", "sft.yaml"], capsys)
    grpo = printed(["fit", "--config", "grpo.yaml"], capsys)
    assert grpo["model"]["init_args"]["weights"] == sft["trainer"]["default_root_dir"] + "/best"
    test = printed(["test", "--config", "benchmark/mmau.yaml"], capsys)
    assert test["model"]["init_args"]["weights"] == grpo["trainer"]["default_root_dir"] + "/best"


@pytest.mark.parametrize(
    ("overlay", "weights"), [("omni", "Qwen/Qwen2.5-Omni-3B"), ("audio_flamingo", "nvidia/audio-flamingo-3-hf")]
)
def test_another_student_goes_over_both_stages(overlay: str, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    sft = printed(["fit", "--config", "sft.yaml", "--config", f"{overlay}.yaml"], capsys)
    assert sft["model"]["init_args"]["weights"] == sft["data"]["init_args"]["processor"] == weights
    best = sft["trainer"]["default_root_dir"] + "/best"
    start = f"--model.init_args.weights={best}"
    grpo = printed(["fit", "--config", "grpo.yaml", "--config", f"{overlay}.yaml", start], capsys)
    assert (best, grpo["trainer"]["default_root_dir"]) == (f"runs/{overlay}/sft/best", f"runs/{overlay}/grpo")
    assert grpo["data"]["init_args"]["processor"] == best


@pytest.mark.parametrize(
    "overlay", sorted(path.name for path in (CONFIG_FOLDER / "hardware").glob("*.yaml")), ids=lambda name: name[:-5]
)
def test_servers_of_an_overlay_are_started_for_the_way_that_weights_take(
    overlay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node1")  # where ranks of other nodes and servers find the first one
    values = printed(["fit", "--config", "grpo.yaml", "--config", f"hardware/{overlay}"], capsys)
    settings = values["trainer"]["callbacks"][0]["init_args"]
    way = settings.get("weight_transfer") or {"class_path": None}
    text = "\n".join(header(Path("hardware") / overlay))
    name, address = {
        "callbacks.NCCLTransfer": (" --weight-transfer nccl", "node1"),
        "callbacks.IPCTransfer": (" --weight-transfer ipc", None),
        None: ("as files", None),
    }[way["class_path"]]
    assert name in text and (name == "as files") == ("--weight-transfer" not in text)
    assert (way.get("init_args") or {}).get("address") == address
    assert settings["max_new_tokens"] == 512  # the rest of the callback stays


def test_sweep_command_is_accepted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Build the command as wandb's agent does, once with each parameter's first and once with its last value."""
    sweep = yaml.safe_load((CONFIG_FOLDER / SWEEP).read_text(encoding="utf-8"))
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    for end in (0, -1):
        chosen = {
            name: {"value": spec.get("value", (spec.get("values") or [spec.get("min"), spec.get("max")])[end])}
            for name, spec in sweep["parameters"].items()
        }
        command = create_sweep_command(list(sweep["command"]))
        flags = create_sweep_command_args({"args": chosen})["args"]
        assert command[:3] == ["${env}", "python", "${program}"] and command[-1] == "${args}"
        values = printed([*command[3:-1], *flags], capsys)
        assert values["trainer"]["default_root_dir"] == "runs/sweep/abc123"
        assert values["trainer"]["logger"]["init_args"]["offline"] is False
        for name, spec in chosen.items():
            found = values
            for key in name.split("."):
                found = found[key]
            assert found == spec["value"], name


def test_command_line_wins_in_interpolations(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    values = printed(["fit", "--config", "grpo.yaml", "--model.init_args.weights=elsewhere"], capsys)
    assert values["data"]["init_args"]["processor"] == "elsewhere"
    monkeypatch.setenv("SIGHTSOUND_DATA", "/somewhere")
    values = printed(["fit", "--config", "grpo.yaml"], capsys)
    assert values["data"]["init_args"]["root"] == "/somewhere/avqa"


def test_a_later_file_wins_in_interpolations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {weights: overlay}}\ntrainer: {default_root_dir: runs/other}\n")
    values = printed(["fit", "--config", "grpo.yaml", "--config", str(overlay)], capsys)
    assert values["data"]["init_args"]["processor"] == "overlay"
    assert values["trainer"]["logger"]["init_args"]["save_dir"] == "runs/other"


def test_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(["fit", "-c", "grpo.yaml"], capsys)["trainer"]["max_steps"] == 1000
    assert printed(["test", "--config=benchmark/avqa.yaml"], capsys)["trainer"]["default_root_dir"]
    assert os.listdir(tmp_path) == []


def test_servers_come_from_the_environment(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SIGHTSOUND_SERVERS", "[http://127.0.0.1:8000,http://127.0.0.1:8001]")
    for stage, config in (("fit", "grpo.yaml"), ("fit", "sft.yaml"), ("test", "benchmark/mmau.yaml")):
        callbacks = printed([stage, "--config", config], capsys)["trainer"]["callbacks"]
        urls = [callback["init_args"].get("server_urls") for callback in callbacks if "init_args" in callback]
        assert ["http://127.0.0.1:8000", "http://127.0.0.1:8001"] in urls
