"""The gap between what is answered with the sound and without it, and its place beside val/accuracy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest

from callbacks import BestCheckpoint
from datamodules import AVQADataModule
from datamodules.batching.items import Item
from datamodules.hearing import HearingSettings
from lightning_modules.audio_qa import AudioQAModule
from lightning_modules.hearing_gap import hearing_metrics
from lightning_modules.sft import SFTModule
from runtime.errors import UserError
from tests.support.avqa_folder import RuledStudent, write_avqa


def test_the_gap_by_hand() -> None:
    """Four questions in all ways: 3 right when heard, 1 in silence, 2 with another clip; 3/4 - 2/4."""
    heard = {"a": True, "b": True, "c": True, "d": False, "only heard": True, "no label": None}
    probed = [(q, "silence", q == "a") for q in "abcd"] + [(q, "swap", q in "ab") for q in "abcd"]
    probed += [("no label", "silence", None), ("no label", "swap", None), ("only heard", "silence", True)]
    assert hearing_metrics(heard, probed) == {
        "hearing/heard": 0.75,
        "hearing/silence": 0.25,
        "hearing/swap": 0.5,
        "hearing_gap": 0.25,
        "hearing_questions": 4.0,
    }
    assert hearing_metrics(heard, []) == {} == hearing_metrics({}, probed)


def listens(question: Any, own: bool, rng: Any) -> int:
    """Right when its own clip is heard, and else the first option."""
    return question.answer if own else 0


def validated(data: Any, weights: str, tmp_path: Path, **settings: Any) -> dict[str, float]:
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, callbacks=[RuledStudent(listens)], enable_progress_bar=False,
        default_root_dir=tmp_path, **settings,
    )  # fmt: skip
    rows = trainer.validate(AudioQAModule(weights), data, verbose=False)
    return {name: value for row in rows for name, value in row.items()}


@pytest.fixture
def made(weights: str, tmp_path: Path) -> Callable[..., AVQADataModule]:
    root = write_avqa(tmp_path / "avqa", range(4), [0, 1, 2, 3, 0, 1, 2, 3])
    shared = {"processor": weights, "num_workers": 0, "batch_size": 2, "media_suffix": ".wav"}
    return lambda **settings: AVQADataModule(str(root), **shared, **settings)


def test_the_gap_is_logged_beside_the_accuracy(made: Callable[..., Any], weights: str, tmp_path: Path) -> None:
    plain = validated(made(), weights, tmp_path)
    assert plain["val/accuracy"] == 1 and not any("hearing" in name or name == "val/score" for name in plain)
    found = validated(made(hearing=HearingSettings(questions=6, weight=0.5)), weights, tmp_path)
    assert {name: found[name] for name in plain} == plain  # to the last digit
    # of the first six questions two have the first option as answer
    assert found["val/hearing/silence"] == found["val/hearing/swap"] == pytest.approx(2 / 6)
    assert found["val/hearing_gap"] == pytest.approx(4 / 6) and found["val/hearing_questions"] == 6
    assert found["val/score"] == pytest.approx(1 + 0.5 * 4 / 6)
    short = validated(made(hearing=HearingSettings(questions=6)), weights, tmp_path, limit_val_batches=2)
    assert short["val/hearing_questions"] == 4  # of two batches, whose questions are the same with and without sound


def test_it_may_choose_the_checkpoint(made: Callable[..., Any], weights: str, tmp_path: Path) -> None:
    keeper = BestCheckpoint(str(tmp_path), monitor="val/score")
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, callbacks=[RuledStudent(listens), keeper], enable_progress_bar=False,
        max_steps=1, limit_train_batches=1, num_sanity_val_steps=1, default_root_dir=tmp_path,
    )  # fmt: skip
    data = made(hearing=HearingSettings(questions=4, probes=["silence"]))
    data.train_items = lambda questions: [
        Item(q, q.answer_text, (f"<answer>{q.answer_text}</answer>",)) for q in questions
    ]
    trainer.fit(SFTModule(weights, lr=1e-5), data)
    assert float(keeper.best_model_score) == pytest.approx(1 + 0.75)


def test_what_cannot_be_asked_twice_is_refused(made: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"data\.hearing asks with several sounds, data\.probe says otherwise"):
        made(hearing=HearingSettings(), probe="swap")
    with pytest.raises(UserError, match=r"data\.hearing\.questions is 0"):
        HearingSettings(questions=0)
    with pytest.raises(UserError, match=r"data\.hearing\.probes needs probes, each once"):
        HearingSettings(probes=["swap", "swap"])
    with pytest.raises(UserError, match=r"each of the 8 devices needs one"):
        HearingSettings(questions=4).chosen([], 8)
