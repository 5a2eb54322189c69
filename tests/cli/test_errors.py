"""What a user can put right ends in one sentence; what is an error of the program keeps its traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from cli.error_messages import user_sentence
from records.records import RecordError
from runtime.errors import UserError
from runtime.folder_claim import CLAIM
from train import main

ROOT = Path(__file__).resolve().parents[2]


class Fails(Callback):
    """Raises what it is told to.

    Args:
        kind: The exception's class.
    """

    def __init__(self, kind: str = "KeyError") -> None:
        if kind == "init":
            raise ZeroDivisionError("a bug of a constructor")
        self.kind = kind

    def on_test_start(self, *_: object) -> None:
        raise {"KeyError": KeyError, "ValueError": ValueError, "UserError": UserError}[self.kind]("what went wrong")


GOES_ON = ("--ckpt_path", "last")


def test_config(world: Path, tmp_path: Path, *lines: str) -> str:
    """A configuration of a test that would run."""
    text = f"""
trainer:
  default_root_dir: {tmp_path}/run
  accelerator: cpu
  callbacks:
    - class_path: callbacks.LocalRollout
      init_args: {{max_new_tokens: 2}}
model:
  class_path: lightning_modules.AudioQAModule
  init_args: {{weights: {world}/student}}
data:
  class_path: datamodules.MMAUDataModule
  init_args: {{root: {world}/corpus/mmau, prompt: think-short, num_workers: 0, report_dir: {tmp_path}/report}}
"""
    path = tmp_path / "test.yaml"
    path.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


test_config.__test__ = False  # type: ignore[attr-defined]


def sentence(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run and return what was said; it must be one line, with a status other than 0."""
    with pytest.raises(SystemExit) as end:
        main(args)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert end.value.code in (1, 2)
    assert len(said) == 1 and len(said[0]) < 500, said
    print(said[0])
    return said[0].removeprefix("train.py: ")


MODEL = "model: {class_path: lightning_modules.SFTModule, init_args: {weights: x}}\n"
FILES = [
    ("broken_yaml", "model: [a\ntrainer: {}\n", r"broken_yaml\.yaml:2:1?.*not valid YAML"),
    ("tab", "model:\n\tclass_path: x\n", r"tab\.yaml:2:1: not valid YAML \(found character '\\t'"),
    ("empty", "", r"empty\.yaml: expected options such as 'model:' and 'data:', found an empty file"),
    ("text", "just words", r"text\.yaml: expected options .* found str"),
    ("list", "- a\n- b\n", r"list\.yaml: expected options .* found list"),
    ("latin1", b"# caf\xe9\nmodel: x\n", r"latin1\.yaml: not valid YAML"),
    ("no_group", "trainner: {max_steps: 1}\n", r"not accept option 'trainner\.max_steps' \(.*no_group\.yaml:1\)"),
    ("unknown_key", "trainer: {max_step: 1}\n", r"max_step' \(.*unknown_key\.yaml:1\)"),
    (
        "unknown_model_key",
        "model:\n  class_path: lightning_modules.SFTModule\n  init_args:\n    weights: x\n    learning_rate: 1\n",
        r"model: lightning_modules\.SFTModule: option 'learning_rate' is not accepted "
        r"\(.*unknown_model_key\.yaml:5\); its options: python train\.py fit --model\.help lightning_modules\.SFT",
    ),
    (
        "renamed_key",
        "model:\n  class_path: lightning_modules.GRPOModule\n  init_args: {weights: x,\n    optimization_epochs: 2}\n",
        r"option 'optimization_epochs' is not accepted \(.*renamed_key\.yaml:4\); it is called num_iterations now",
    ),
    ("no_module", "model: {class_path: lightning_modules.sftt.Sft}\n", r"has no attribute 'sftt'"),
    ("moved_module", "model: {class_path: lightning_modules.sftt.SFTModule}\n", r"is now lightning_modules\.SFTModule"),
    ("no_class", "model: {class_path: lightning_modules.sft.Sft}\n", r"has no attribute 'Sft'"),
    ("wrong_type", MODEL.replace("weights: x", "weights: x, lr: fast"), r"lr: expected float, found fast"),
    ("missing_weights", "model: {class_path: lightning_modules.SFTModule}\n", r"are required: weights"),
    (
        "not_a_choice",
        MODEL + "data: {class_path: datamodules.AVQADataModule, init_args: {root: x, predict_split: tset}}\n",
        r"predict_split: expected one of 'train', 'val', found tset",
    ),
    (
        "open_interpolation",
        MODEL + "trainer: {default_root_dir: '${nowhere.x}'}\n",
        r"trainer\.default_root_dir: Interpolation key 'nowhere\.x' not found \(.*open_interpolation\.yaml:2\)",
    ),
    ("no_environment", MODEL + "trainer: {default_root_dir: '${oc.env:SIGHTSOUND_NOT_SET}'}\n", r"SIGHTSOUND_NOT_SET"),
    (
        "callback_key",
        "trainer: {callbacks: [{class_path: callbacks.AccuracyLogger, init_args: {a: 1}}]}\n",
        r"option 'a' is not accepted.*--trainer\.callbacks\.help",
    ),
    (
        "logger_key",
        "trainer: {logger: {class_path: WandbLogger, init_args: {projct: a}}}\n",
        r"trainer\.logger: .*'projct'",
    ),
    (
        "doubled_key",
        "model:\n  init_args:\n    lr: 1.0\n    lr: 2.0\n",
        r"doubled_key\.yaml:4:5: 'lr' stands twice, see line 3",
    ),
    ("doubled_group", MODEL + "data: {}\ntrainer: {}\ndata: {}\n", r"doubled_group\.yaml:4:1: 'data' stands twice"),
    ("number_key", "1: 2\n", r"number_key\.yaml:1:1: 1 is no name of an option"),
    ("model_list", "model:\n- lr: 1\n", r"model_list\.yaml: 'model' takes one class .*found a list"),
    (
        "null_options",
        "model:\n  class_path: lightning_modules.SFTModule\n  init_args:\n",
        r"null_options\.yaml:3:3: 'init_args' has no options",
    ),
    ("no_data", MODEL, r"required: .*data"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), FILES, ids=[name for name, *_ in FILES])
def test_configuration_files(tmp_path: Path, capsys, name: str, content: str | bytes, expected: str) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = sentence(["fit", "--config", str(path)], capsys)
    assert re.search(expected, said), said


ARGUMENTS = [
    ([], "a subcommand is missing: fit, validate, test, predict, plan"),
    (["fitt"], "'fitt' is no subcommand: fit, validate, test, predict, plan"),
    (["fit", "--config"], "argument -c/--config: expected one argument"),
    (["fit", "--config", "none.yaml"], "config file 'none.yaml' exists neither at that path nor in"),
    (["fit", "--config=mini/none.yaml"], "grpo.yaml"),
    (["fit", "--config", "grpo.yaml", "--modle.lr=1"], "unrecognized arguments: --modle.lr=1"),
    (["fit", "--config", "grpo.yaml", "--model.lrr=1"], "option 'lrr' is not accepted"),
    (["fit", "--config", "grpo.yaml", "--trainer.max_steps=many"], "trainer.max_steps: expected int, found many"),
    (["fit", "--config", "grpo.yaml", "--ckpt_path", "none.ckpt"], "checkpoint none.ckpt does not exist"),
    (["fit", "--config", "grpo.yaml", "--ckpt_path", "best"], "fit --ckpt_path best is not possible in a new process"),
    (["test", "--config", "benchmark/mmau.yaml", "--ckpt_path", "last"], "or the exported weights"),
]


@pytest.mark.parametrize(
    ("args", "expected"), ARGUMENTS, ids=[" ".join(args)[:60] or "nothing" for args, _ in ARGUMENTS]
)
def test_arguments(args: list[str], expected: str, capsys) -> None:
    assert expected in sentence(args, capsys)


def test_place_is_not_named_when_the_command_line_is_at_fault(capsys) -> None:
    assert ".yaml" not in sentence(["fit", "--config", "grpo.yaml", "--trainer.max_steps=many"], capsys)


RUNS = [
    (["--model.init_args.weights=runs/no/best"], "weights: there is no folder 'runs/no/best'"),
    (["--data.init_args.root=/no/such/data"], "/no/such/data"),
    (["--trainer.strategy=quantum"], "trainer: You selected an invalid strategy name: `strategy='quantum'`"),
    (["--trainer.accelerator=abacus"], "trainer: "),
    (["--trainer.default_root_dir=/proc/none"], "trainer.default_root_dir /proc/none cannot be made"),
    (["--data.init_args.eval_batch_size=0"], "data.eval_batch_size must be 1 or more, found 0"),
    (["--data.init_args.prompt=essay"], "essay"),
    (["--trainer.callbacks=callbacks.AccuracyLogger"], "nobody generated completions"),
    (["--trainer.callbacks.max_new_tokens=0"], "max_new_tokens is 0"),
    (
        [
            "--trainer.callbacks=callbacks.VLLMRollout",
            "--trainer.callbacks.server_urls=[http://127.0.0.1:9]",
            "--trainer.callbacks.wait_seconds=1",
        ],
        "http://127.0.0.1:9",
    ),
    (
        ["--trainer.callbacks+=callbacks.PredictionWriter", "--trainer.callbacks.path=/proc/none/x"],
        "predictions cannot be written to /proc/none/x",
    ),
    (["--trainer.callbacks+=tests.cli.test_errors.Fails", "--trainer.callbacks.kind=UserError"], "what went wrong"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "expected"), RUNS, ids=[args[0].lstrip("-")[:60] for args, _ in RUNS])
def test_runs(world: Path, tmp_path: Path, capsys, monkeypatch, args: list[str], expected: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert expected in sentence(["test", "--config", test_config(world, tmp_path), *args], capsys)


@pytest.mark.parametrize("kind", ["KeyError", "ValueError"])
def test_a_bug_keeps_its_traceback(world: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises({"KeyError": KeyError, "ValueError": ValueError}[kind], match="what went wrong"):
        main(
            [
                "test",
                "--config",
                test_config(world, tmp_path),
                "--trainer.callbacks+=tests.cli.test_errors.Fails",
                f"--trainer.callbacks.kind={kind}",
            ]
        )


def test_a_bug_of_a_constructor_is_not_hidden_by_the_parser(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of a constructor") as raised:
        main(
            [
                "test",
                "--config",
                test_config(world, tmp_path),
                "--trainer.callbacks+=tests.cli.test_errors.Fails",
                "--trainer.callbacks.kind=init",
            ]
        )
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(world: Path, tmp_path: Path, monkeypatch, how: str) -> None:
    args = ["test", "--config", test_config(world, tmp_path), "--data.init_args.eval_batch_size=0"]
    if how == "environment":
        monkeypatch.setenv("SIGHTSOUND_DEBUG", "1")
    with pytest.raises(UserError):
        main([*args, "--debug"] if how == "option" else args)


def test_error_of_a_loader_worker_is_one_sentence() -> None:
    class Broken(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> None:
            raise RecordError("clips/a.mp4: no audio track; remove row 3 of val_qa.json")

    with pytest.raises(RecordError) as raised:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert "Traceback" in str(raised.value)
    assert user_sentence(raised.value) == ("clips/a.mp4: no audio track; remove row 3 of val_qa.json", 1)


def test_missing_file_of_the_system() -> None:
    with pytest.raises(FileNotFoundError) as raised:
        Path("/no/such/file").read_text()
    assert user_sentence(raised.value) == ("/no/such/file: no such file or directory", 1)
    assert user_sentence(RuntimeError("a bug")) is None


@pytest.mark.integration
def test_whole_process(tmp_path: Path) -> None:
    """Nothing but the sentence on standard error, status 2, nothing left behind."""
    command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", "grpo.yaml", "--model.lrr=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("train.py: model: "), done.stderr
    assert os.listdir(tmp_path) == []


def test_going_on_with_another_stages_checkpoint_is_refused(world: Path, tmp_path: Path, capsys) -> None:
    """Both stages in one folder: the weights would fit, and the second stage would find that it had ended."""
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"written_by": "lightning_modules.sft.SFTModule", "state_dict": {}, "global_step": 300}, last)
    said = sentence(["fit", "--config", "grpo.yaml", f"--trainer.default_root_dir={tmp_path}/run", *GOES_ON], capsys)
    assert f"{last} was written by lightning_modules.sft.SFTModule, the configuration names" in said


def test_two_runs_in_one_folder_are_refused(tmp_path: Path, capsys) -> None:
    holds = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    place = tmp_path / "run"
    place.mkdir()
    command = [sys.executable, "-S", "-c", holds, str(place / CLAIM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = sentence(["fit", "--config", "sft.yaml", f"--trainer.default_root_dir={place}", *GOES_ON], capsys)
        other.kill()
    assert f"{place} is being written by another run" in said and "--trainer.default_root_dir" in said


def test_a_failed_start_leaves_the_folder_as_it_was(tmp_path: Path, capsys) -> None:
    """The student is not there: nothing was trained, and the next start is the first one."""
    place = tmp_path / "new" / "run"
    args = [
        "fit",
        "--config",
        "sft.yaml",
        f"--trainer.default_root_dir={place}",
        "--model.init_args.weights=runs/no/best",
    ]
    sentence(args, capsys)
    assert os.listdir(tmp_path) == []
    place.mkdir(parents=True)
    (place / "wandb_run_id").write_text("of an earlier run")
    sentence(args, capsys)
    assert {file.name: file.read_text() for file in place.iterdir()} == {"wandb_run_id": "of an earlier run"}
