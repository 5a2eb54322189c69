"""Every argument of every class that a configuration can name has help text."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule

from cli.config_files import ConfigError, check_yaml
from cli.config_layers import resolve_configs
from cli.lightning_cli import SUBCOMMANDS, SightSoundCLI
from lightning_modules.grpo import GRPOModule
from lightning_modules.grpo_settings import GRPOSettings
from train import main

ROOT = Path(__file__).parents[2]
PACKAGES = ("datamodules", "lightning_modules", "callbacks")


def configurable_classes() -> Iterator[type]:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                bases = (Callback, LightningDataModule, LightningModule)
                reward = hasattr(found, "name") and found.__module__ == "lightning_modules.objectives.rewards"
                own = found.__module__ == module.name and not getattr(found, "_is_protocol", False)
                if own and (issubclass(found, bases) or reward):
                    yield found


CLASSES = sorted(set(configurable_classes()), key=lambda c: f"{c.__module__}.{c.__qualname__}")


@pytest.mark.parametrize("found", CLASSES, ids=lambda c: f"{c.__module__}.{c.__qualname__}")
def test_every_argument_has_help(found: type) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(found, "x", fail_untyped=True)
    assert (found.__doc__ or "").strip()
    silent = [
        action.dest for action in parser._actions if action.dest.startswith("x.") and not (action.help or "").strip()
    ]
    assert not silent
    # where jsonargparse cannot follow how a class passes its arguments on, it shows no default but what it is at a loss
    unclear = [a.dest for a in parser._actions if "Unknown" in str(a.default) or "Conditional" in str(a.default)]
    assert not unclear


def texts(settings: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say of each field."""
    found: dict[str, str] = {}
    for one in reversed(settings.__mro__):
        attributes = inspect.getdoc(one) or ""
        for entry in re.split(r"\n    (?=\w+: )", attributes.partition("Attributes:")[2]):
            name, _, text = entry.strip().partition(": ")
            found[name] = " ".join(text.split())
    return found


def settings_of(found: type) -> type:
    """Return the dataclass whose fields a class takes."""
    annotations = (inspect.get_annotations(one) for one in found.__mro__)
    kind: type = next(some["settings"] for some in annotations if "settings" in some)
    return kind


def of_settings() -> list[type]:
    """Return the classes that take the fields of a dataclass."""
    own = [found for found in CLASSES if "__init__" in vars(found) and not issubclass(found, Callback)]
    return [found for found in own if inspect.getfullargspec(vars(found)["__init__"]).varkw == "settings"]


@pytest.mark.parametrize("found", of_settings(), ids=lambda c: c.__name__)
def test_help_shows_every_setting_with_its_text(found: type) -> None:
    settings = settings_of(found)
    parser = ArgumentParser()
    parser.add_class_arguments(found, "x")
    shown = {action.dest: action for action in parser._actions}
    said = texts(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(field.default):  # a group of its own
            inner = texts(type(field.default))
            parts = dataclasses.fields(field.default)
            expected = {f"x.{field.name}.{p.name}": (inner[p.name], getattr(field.default, p.name)) for p in parts}
        else:
            expected = {f"x.{field.name}": (said[field.name], field.default)}
        for name, (text, default) in expected.items():
            assert " ".join(shown[name].help.split()) == text and len(text) > 10
            found_default = shown[name].default
            if isinstance(found_default, Namespace):  # a class by its path
                assert found_default.class_path.rpartition(".")[2] == type(default).__name__
            else:
                assert default is dataclasses.MISSING or found_default == default


def test_classes_that_take_settings_were_found() -> None:
    names = {found.__name__ for found in of_settings()}
    assert {"AudioQAModule", "SFTModule", "GRPOModule", "TracesDataModule", "AlignmentDataModule"} <= names


def test_a_class_that_adds_settings_shows_all() -> None:
    class Own(GRPOModule):
        """One's own.

        Args:
            mine: Mine.
        """

        def __init__(self, *weights: Any, mine: int = 3, **settings: Any) -> None:
            super().__init__(*weights, **settings)

    parser = ArgumentParser()
    parser.add_class_arguments(Own, "x")
    shown = {action.dest.removeprefix("x."): action.default for action in parser._actions}
    wanted = {field.name for field in dataclasses.fields(GRPOSettings)} - {"sharding"}
    assert wanted | {"mine", "sharding.replicas"} <= shown.keys() and (shown["mine"], shown["beta"]) == (3, 0.04)


def test_classes_were_found() -> None:
    names = {found.__name__ for found in CLASSES}
    assert {"GRPOModule", "SFTModule", "AVQADataModule", "VLLMRollout", "WeightsExport", "AccuracyReward"} <= names


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_subcommand_help(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([subcommand, "--help"])
    assert end.value.code == 0
    assert "--debug" in capsys.readouterr().out


def test_every_option_of_the_command_line_has_help() -> None:
    silent: list[str] = []

    class Inspecting(SightSoundCLI):
        def parse_arguments(self, parser, args) -> None:
            for name, parser in self._subcommand_parsers.items():
                silent.extend(f"{name} {a.dest}" for a in parser._actions if not (a.help or "").strip())
            raise SystemExit

    with pytest.raises(SystemExit):
        Inspecting([])
    assert not silent


def test_help_of_a_class_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "lightning_modules.GRPOModule"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Gradients are scaled down to this norm; 0 leaves them alone. (type: float, default: 1.0)" in text
    assert "--model.dtype DTYPE Type of the weights in memory: float32, bfloat16, float16 or auto." in text
    assert "--model.weights WEIGHTS The SFT policy:" in text  # a class may say more exactly what its base has said
    assert "--model.lora LORA" in text and "Conditional" not in text  # what the module passes on to the student


@pytest.mark.parametrize("package", [*PACKAGES, "lightning_modules.objectives"])
def test_short_names_are_those_of_the_classes_that_configurations_name(package: str) -> None:
    short = importlib.import_module(package)
    assert {name: getattr(short, name).__name__ for name in dir(short)} == {name: name for name in dir(short)}
    for file in (ROOT / "configs").rglob("*.yaml"):
        for named in re.findall(rf"class_path: ({package}\.[\w.]+)", file.read_text(encoding="utf-8")):
            place, _, name = named.rpartition(".")
            known = dir(importlib.import_module(place)) if place in (package, "lightning_modules.objectives") else []
            assert name in known, f"{file}: {named}"


def test_a_class_that_moved_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("trainer:\n  callbacks:\n  - class_path: callbacks.vllm_rollout.VLLMRollout\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(old)])
    assert "callbacks.vllm_rollout.VLLMRollout is now callbacks.VLLMRollout" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", "--trainer.callbacks=callbacks.record_writer.RecordWriter"])
    assert "callbacks.record_writer.RecordWriter is now callbacks.RecordWriter" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "trainer: {callbacks: [callbacks.vllm_rollout.VLLMRollout]}\n",
        "trainer: {callbacks: callbacks.vllm_rollout.VLLMRollout}\n",
        "model: lightning_modules.old.GRPOModule\n",
        "model: {init_args: {reward_functions: [lightning_modules.old.AccuracyReward, my.Reward]}}\n",
    ],
)
def test_a_class_that_moved_is_named_wherever_it_stands(tmp_path: Path, text: str) -> None:
    (tmp_path / "old.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"old\.yaml: [\w.]+\.(\w+) is now (callbacks|lightning_modules)\.\1"):
        check_yaml(str(tmp_path / "old.yaml"))


def test_a_class_that_moved_is_named_inside_of_an_argument() -> None:
    given = "--trainer.callbacks=[{class_path: callbacks.local_rollout.LocalRollout, init_args: {max_new_tokens: 4}}]"
    with pytest.raises(ConfigError, match=r"callbacks\.local_rollout\.LocalRollout is now callbacks\.LocalRollout$"):
        resolve_configs(["fit", given])


def test_paths_that_look_like_classes_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "paths.yaml").write_text("model: {init_args: {weights: callbacks.old/VLLMRollout}}\n")
    check_yaml(str(tmp_path / "paths.yaml"))
    resolve_configs(["fit", "--model.init_args.weights=/data/callbacks.old/x", "--model", "my.callbacks.VLLMRollout"])
