"""``python train.py export`` replaces nothing but an earlier export."""

import re
from pathlib import Path

import pytest

from train import main


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        (".", r"holds the checkpoint .*last\.ckpt and would be replaced:.*--directory"),
        ("checkpoints", r"holds the checkpoint"),
        ("checkpoints/last.ckpt", r"holds the checkpoint"),
        ("foreign", r"foreign is not empty and not an earlier export \(it holds data, thesis\.tex\).*--directory"),
        ("base", r"base is not empty and not an earlier export \(training\.json is missing\)"),
        ("notes.txt", r"notes\.txt is a file and would be replaced:.*--directory"),
    ],
)
def test_what_is_not_an_export_is_not_replaced(
    directory: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("checkpoints/last.ckpt", "foreign/thesis.tex", "foreign/data/a", "notes.txt", "base/config.json")
    for name in (*files, "base/model-00001-of-00002.safetensors", "base/tokenizer.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = sorted(tmp_path.rglob("*"))
    for place in (str(tmp_path / directory), directory):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main(["export", "--config", "sft.yaml", "--ckpt_path", "checkpoints/last.ckpt", "--directory", place])
        assert end.value.code == 1
        assert re.search(expected, capsys.readouterr().err)
        assert sorted(tmp_path.rglob("*")) == before
