"""Files that extend a file, and callbacks that are changed without repeating the list."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.config_files import ConfigError
from cli.config_layers import changed, resolve_configs
from tests.cli.test_configs import printed

WRITER: dict[str, Any] = {"class_path": "callbacks.RecordWriter", "init_args": {"directory": "a", "retry_errors": True}}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, **values: Any) -> str:
        (tmp_path / name).write_text(yaml.safe_dump(values))
        return name

    return write


def callbacks_of(args: list[str]) -> Any:
    """The last list of callbacks that LightningCLI is given."""
    found = None
    for text in resolve_configs(args)[0]:
        values = yaml.safe_load(Path(text).read_text() if Path(text).is_file() else text)
        if isinstance(values, dict) and "callbacks" in values.get("trainer", {}):
            found = values["trainer"]["callbacks"]
    return found


def test_a_callback_goes_over_that_of_its_class_in_its_place() -> None:
    there = [WRITER, "callbacks.YieldReport"]
    found = changed(there, [{"class_path": "callbacks.RecordWriter", "init_args": {"directory": "b"}}])
    settings = {"directory": "b", "retry_errors": True}
    assert found == [{"class_path": "callbacks.RecordWriter", "init_args": settings}, "callbacks.YieldReport"]
    assert WRITER["init_args"]["directory"] == "a"


def test_the_long_name_of_a_class_means_the_same_class() -> None:
    long = {"class_path": "callbacks.writers.record_writer.RecordWriter", "init_args": {"directory": "b"}}
    assert [entry["init_args"]["directory"] for entry in changed([WRITER], [long])] == ["b"]
    assert len(changed([WRITER], ["elsewhere.RecordWriter"])) == 2


def test_others_are_appended() -> None:
    assert changed([WRITER], ["callbacks.YieldReport", "callbacks.YieldReport"]) == [
        WRITER,
        {"class_path": "callbacks.YieldReport"},
    ]


def test_a_callback_takes_anothers_place() -> None:
    other = {"class_path": "callbacks.YieldReport", "instead_of": "callbacks.RecordWriter"}
    assert changed([WRITER], [other]) == [{"class_path": "callbacks.YieldReport"}]
    with pytest.raises(ConfigError, match=r"x\.yaml: instead_of callbacks\.RecordWriter, which is not among .*none"):
        changed([], [other], "x.yaml")


def test_each_file_goes_over_those_before_it(write) -> None:
    base = write("base.yaml", trainer={"callbacks": [WRITER]})
    one = write("one.yaml", trainer={"callbacks+": ["callbacks.YieldReport"]})
    two = write(
        "two.yaml", trainer={"callbacks+": [{"class_path": "callbacks.RecordWriter", "init_args": {"path": 2}}]}
    )
    found = callbacks_of(["fit", "--config", base, f"--config={one}", "-c", two])
    assert found == [
        WRITER | {"init_args": {"directory": "a", "retry_errors": True, "path": 2}},
        {"class_path": "callbacks.YieldReport"},
    ]
    assert callbacks_of(["fit", "--config", one, "--config", base]) == [WRITER]


def test_an_option_that_would_be_lost_is_refused(write) -> None:
    one = write("one.yaml", trainer={"callbacks+": ["callbacks.YieldReport"]})
    with pytest.raises(ConfigError, match=r"put --trainer\.callbacks behind"):
        resolve_configs(["fit", "--trainer.callbacks+=callbacks.AudioCache", "--config", one])
    resolve_configs(["fit", "--config", one, "--trainer.callbacks+=callbacks.AudioCache"])


def test_a_file_comes_after_the_one_that_it_extends(write) -> None:
    base = write("base.yaml", trainer={"callbacks": [WRITER], "max_steps": 1})
    middle = write("middle.yaml", extends=base, trainer={"max_steps": 2})
    top = write("top.yaml", extends=middle, trainer={"callbacks+": ["callbacks.YieldReport"]})
    args, paths = resolve_configs(["fit", "--config", top, "--trainer.max_steps=3"])
    assert paths == [base, middle, top]
    texts = [yaml.safe_load(text) for text in (Path(args[2]).read_text(), args[4], args[6])]
    assert [values["trainer"].get("max_steps") for values in texts] == [1, 2, None]
    assert len(texts[2]["trainer"]["callbacks"]) == 2 and args[7:] == ["--trainer.max_steps=3"]
    assert not any("extends" in values for values in texts)


def test_what_cannot_be_extended_is_named(write) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: extends: config file 'nothing\.yaml' exists neither"):
        resolve_configs(["fit", "--config", write("a.yaml", extends="nothing.yaml")])
    write("b.yaml", extends="c.yaml")
    with pytest.raises(ConfigError, match=r"b\.yaml extends c\.yaml extends b\.yaml: a file cannot extend itself"):
        resolve_configs(["fit", "--config", "b.yaml", "--config", write("c.yaml", extends="b.yaml")])
    with pytest.raises(ConfigError, match=r"extends must name one file, found \['x'\]"):
        resolve_configs(["fit", "--config", write("d.yaml", extends=["x"])])


@pytest.mark.parametrize(
    ("base", "overlay", "other"),
    [
        ("grpo.yaml", "mini/grpo.yaml", {}),
        ("sft.yaml", "mini/sft.yaml", {"callbacks.VLLMRollout": "callbacks.LocalRollout"}),
        ("benchmark/avqa.yaml", "mini/avqa.yaml", {}),
        ("benchmark/avqa.yaml", "benchmark/in_process.yaml", {"callbacks.VLLMRollout": "callbacks.LocalRollout"}),
    ],
)
def test_shipped_overlays_leave_the_other_callbacks_alone(base: str, overlay: str, other: dict[str, str]) -> None:
    below = [entry["class_path"] for entry in callbacks_of(["--config", base])]
    found = [entry["class_path"] for entry in callbacks_of(["--config", base, "--config", overlay])]
    assert found == [other.get(name, name) for name in below]


def test_own_experiments_extend_a_shipped_stage(write, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"class_path": "callbacks.VLLMRollout", "init_args": {"sync_dir": "/shared"}}
    own = write("own.yaml", extends="grpo.yaml", trainer={"default_root_dir": "runs/own", "callbacks+": [settings]})
    trainer = printed(["fit", "--config", own], capsys)["trainer"]
    rollout, *others = trainer["callbacks"]
    assert (rollout["init_args"]["sync_dir"], rollout["init_args"]["max_new_tokens"]) == ("/shared", 512)
    assert len(others) == 6 and trainer["logger"]["init_args"]["save_dir"] == "runs/own"
