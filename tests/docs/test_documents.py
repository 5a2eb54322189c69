"""What README and docs/ say: each command is understood by what it names, paths exist, examples work."""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser as torchrun

from cli.export import own_options
from datamodules.avqa import AVQADataModule
from tests.cli.test_configs import CONFIGS, SWEEP, launch
from tests.test_rooms import FLOORS
from train import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LAUNCHED = [[word for word in launch(config) if word != "--config"] for config in CONFIGS if config != SWEEP]
"""What the tests of configurations check."""
LEFT_TO_THE_SHELL = {"ssh", "export", "source", "pre-commit", "git", "grep"}
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(python |make \w|vllm serve |torchrun |wandb sweep )")
_VARIABLE = re.compile(r"[A-Z_]+=")
_PATH = re.compile(r"\.?[\w.-]+(/[\w.{}-]+)*(/|\.(py|yaml|md|sh|sbatch|j2|toml))")
_ELSEWHERE = re.compile(r"(runs|data|my_data|site|errors|\.venv)/|report\.|kitchen\.py|my\.py|brief\.py|head\.|<")


def fenced(document: Path, language: str) -> list[str]:
    return [block for _, found, block in _FENCED.findall(document.read_text("utf-8")) if found == language]


def inline(document: Path) -> list[str]:
    return _INLINE.findall(_FENCED.sub("", document.read_text("utf-8")))


def commands() -> Iterator[str]:
    """Commands of fenced blocks, and those within sentences that leave nothing out."""
    for document in DOCUMENTS:
        for block in fenced(document, "bash"):
            yield from filter(None, (line.strip() for line in block.replace("\\\n", " ").splitlines()))
        yield from (text for text in inline(document) if _COMMAND.match(text) and not re.search(r"\.\.\.|[{<]", text))


def parts(command: str) -> list[str]:
    """Arguments without comment, variables before it, and the sign that it is to run in the background."""
    words = [word for word in shlex.split(command, comments=True) if word != "&"]
    while words and _VARIABLE.match(words[0]):
        words.pop(0)
    return words


class Parsed(Exception):
    """A command line was understood, and is not to be followed."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs end where their arguments have been parsed."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_args(parser: argparse.ArgumentParser, args=None, namespace=None):
        _, unknown = parse(parser, args, namespace)
        raise AssertionError(f"{unknown} is not known") if unknown else Parsed

    def parse_known_args(parser: argparse.ArgumentParser, args=None, namespace=None):
        if args is None:  # a program's own call, which hands on what it does not know
            parse(parser, sys.argv[1:], namespace)
            raise Parsed
        return parse(parser, args, namespace)  # a subcommand's

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)


def understood(words: list[str]) -> None:
    """Fail where a command names what is not there."""
    program, *arguments = words
    if program in LEFT_TO_THE_SHELL:
        return
    if program == "make":
        rules = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(rules[0].split())
    elif program == "srun":
        understood(arguments[arguments.index("python") :])
    elif program == "wandb":
        assert arguments[0] == "sweep" and (ROOT / arguments[1]).is_file()
    elif program == "vllm":
        found = importlib.util.find_spec("vllm")  # not imported: that takes seconds
        assert found is not None and found.origin is not None
        known = (Path(found.origin).parent / "engine" / "arg_utils.py").read_text("utf-8")
        assert all(f'"{word}"' in known for word in arguments if word.startswith("--"))
    elif arguments[0] == "-m":
        module, *rest = arguments[1:]
        if module == "pytest":
            assert all((ROOT / name).exists() for name in rest if not name.startswith("-"))
            return
        package = ROOT / module.replace(".", "/")
        run = importlib.import_module(f"{module}.__main__" if package.is_dir() else module).main
        sys.argv = [module, *rest]
        with pytest.raises(Parsed):
            run()
    else:
        raise AssertionError(f"nothing checks {program} {shlex.join(arguments)}")


def expanded(words: list[str]) -> list[str]:
    """The command of ``train.py`` that a launch file makes of its arguments, which must be there."""
    for at, word in enumerate(words[:3]):
        if word.startswith("launch/"):
            assert (ROOT / word).is_file() and (words[0] == "sbatch") == word.endswith(".sbatch")
            return ["python", "train.py", *words[at + 1 :]]
    return words


def stage_of(words: list[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """Subcommand and configurations of a command of ``train.py``, and its other options."""
    words = expanded(words)
    if "train.py" not in words:
        return None
    launcher, stage = words[: words.index("train.py")], words[words.index("train.py") + 1 :]
    if launcher[0] == "torchrun":
        torchrun().parse_args([*launcher[1:], "train.py"])
    else:
        assert launcher[-1] in ("python", ".venv/bin/python"), launcher
    files = [at for at, word in enumerate(stage) if word == "--config"]
    options = [word for at, word in enumerate(stage[1:], 1) if at not in files and at - 1 not in files]
    return (stage[0], *(stage[at + 1] for at in files)), options


def stages() -> dict[tuple[str, ...], list[str]]:
    """All options that go with configurations, but for commands as the configurations' own headers have them."""
    found: dict[tuple[str, ...], list[str]] = {}
    for stage, options in filter(None, (stage_of(parts(command)) for command in commands())):
        if set(options) - {"--ckpt_path", "last"} or list(stage) not in LAUNCHED:
            found[stage] = [*found.get(stage, ()), *options]
    return found


def accepted(arguments: list[str]) -> bool:
    asks = any(".help" in argument for argument in arguments)
    with pytest.raises(SystemExit) as end:
        main(arguments if asks else [*arguments, "--print_config"])
    return end.value.code == 0


@pytest.mark.parametrize(("stage", "options"), stages().items(), ids=" ".join)
def test_stages_accept_their_commands(stage: tuple[str, ...], options: list[str], tmp_path: Path) -> None:
    subcommand, *files = stage
    if subcommand == "export":
        options = own_options().parse_known_args(options)[1]
    subcommand = {"plan": "fit", "export": "fit"}.get(subcommand, subcommand)  # they take the configuration of fit
    configs = [word for file in files for word in ("--config", file)]
    assert accepted([subcommand, *configs, *options])


@pytest.mark.parametrize("command", sorted({c for c in commands() if "train.py" not in c and "launch/" not in c}))
def test_programs_accept_their_commands(command: str, only_parsed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    understood(parts(command))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_what_is_named_exists(document: Path) -> None:
    text = _FENCED.sub("", document.read_text("utf-8"))
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    paths = [path for path in inline(document) if _PATH.fullmatch(path) and not _ELSEWHERE.match(path)]
    bases = (ROOT, ROOT / "configs", ROOT / "lightning_modules" / "models" / "architectures")
    assert [path for path in paths if not any((base / path).exists() for base in bases)] == []
    classes = re.findall(r"\b(lightning_modules|datamodules|callbacks)\.([A-Z]\w+)", document.read_text("utf-8"))
    assert [f"{package}.{name}" for package, name in classes if name not in dir(importlib.import_module(package))] == []


@pytest.mark.parametrize(
    ("document", "args"),
    [("own_videos", ["test"]), ("own_reward", ["fit", "--config", "grpo.yaml"]), ("configuration", ["fit"])],
)
def test_examples_work(document: str, args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / f"{document}.md"
    modules = re.findall(r"module `(\w+)\.py`", page.read_text("utf-8"))
    for module, code in zip(modules, fenced(page, "python"), strict=True):
        (tmp_path / f"{module}.py").write_text(code)
    (overlay,) = fenced(page, "yaml")
    (tmp_path / "overlay.yaml").write_text(overlay)
    monkeypatch.syspath_prepend(tmp_path)
    assert accepted([*args, "--config", str(tmp_path / "overlay.yaml")])


def test_the_row_of_own_videos_is_one() -> None:
    (row,) = map(json.loads, fenced(ROOT / "docs" / "own_videos.md", "json"))
    read = AVQADataModule("data").parse_row(row, "train")
    assert (read.text, read.options[int(read.answer or 0)]) == ("What is making the sound in the audio?", "a blender")


def test_every_page_is_on_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    assert sorted(re.findall(r"\w+\.md", str(site["nav"]))) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_every_room_is_described() -> None:
    rooms = set().union(*FLOORS) - {"."}
    described = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert [
        room for room in rooms if f"`{room}/`" not in described and not room.startswith(("benchmarks/", "tests"))
    ] == []
