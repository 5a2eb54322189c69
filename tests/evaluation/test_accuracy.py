"""Scores of runs: categories, the paper's average, probes, orders of options."""

from pathlib import Path

import pytest

from evaluation.accuracy import order_robustness, score, score_run
from evaluation.checked import check_predictions
from evaluation.runs import read_run
from records.records import Prediction
from runtime.errors import UserError
from tests.support.predictions import OPTIONS, prediction, question, write_predictions

QUESTIONS = [question(number) for number in range(6)]  # sound, music, speech, sound, music, speech
RIGHT = [prediction(number) for number in range(6)]
WRONG = [prediction(number, "<answer>dog</answer>") for number in range(6)]


def shown(predictions: list[Prediction], options: tuple[str, ...], probe: str = "") -> list[Prediction]:
    """The same completions under another order of options, or with probed audio."""
    return [
        prediction(
            number, p.completion, options=options, probe=probe, answer=options.index("cat"),
            choice=options.index(p.completion[8:-9]),
        )
        for number, p in enumerate(predictions)
    ]  # fmt: skip


def test_categories_and_average() -> None:
    checked = check_predictions([*RIGHT[:3], *WRONG[3:5]], QUESTIONS)
    found = score("mmau", checked)
    assert {name: (s.right, s.questions) for name, s in found.items()} == {
        "average": (3, 6),  # the missing one counts
        "sound": (1, 2),
        "music": (1, 2),
        "speech": (1, 2),
    }
    assert found["average"].low < 0.5 < found["average"].high


def test_music_avqa_leaves_the_visual_questions_out_of_the_average(tmp_path: Path) -> None:
    kinds = [("Audio", "Counting"), ("Audio-Visual", "Location"), ("Visual", "Counting"), ("Visual", "Location")]
    questions = [
        question(n, id=f"music_avqa/test/{n}", dataset="music_avqa", category=category, metadata={"modality": modality})
        for n, (modality, category) in enumerate(kinds)
    ]
    answers = [
        prediction(n, completion, question_id=f"music_avqa/test/{n}")
        for n, completion in enumerate(["<answer>cat</answer>", "<answer>dog</answer>", "<answer>cat</answer>", "?"])
    ]

    def scored(predictions: list[Prediction]) -> dict[str, tuple[int, int]]:
        write_predictions(tmp_path / "predictions.jsonl", predictions)
        run = read_run(f"r={tmp_path}", {"music_avqa": questions})
        found = score_run(run, {"music_avqa": questions}, resamples=10)["music_avqa"].scores
        return {name: (s.right, s.questions) for name, s in found.items() if s.questions}

    expected = {"average": (1, 2), "Counting": (1, 1), "Location": (0, 1)}
    assert scored(answers[:2]) == expected  # the visual questions were not asked, so none is missing
    assert scored(answers) == {**expected, "all questions": (2, 4)}


def test_probes_and_orders_are_recognised(tmp_path: Path) -> None:
    turned = ("cat", "dog", "wind", "rain")
    write_predictions(tmp_path / "plain" / "predictions.jsonl", RIGHT)
    write_predictions(tmp_path / "silence" / "predictions.jsonl", shown([*RIGHT[:2], *WRONG[2:]], OPTIONS, "silence"))
    write_predictions(tmp_path / "order" / "predictions.jsonl", shown([*RIGHT[:4], *WRONG[4:]], turned))
    questions = {"mmau": QUESTIONS}
    run = read_run(f"mine={tmp_path}", questions)
    assert {(f.path.parent.name, f.probe, f.shuffled) for f in run.files} == {
        ("plain", "", False),
        ("silence", "silence", False),
        ("order", "", True),
    }
    found = score_run(run, questions)["mmau"]
    assert found.average.accuracy == 1.0
    probed, change = found.probes["silence"]
    assert (probed.right, probed.questions) == (2, 6)
    assert change.difference == pytest.approx(-4 / 6)
    assert change.mcnemar == pytest.approx(2 / 16)
    assert found.orders is not None
    assert found.orders.accuracies == (1.0, pytest.approx(4 / 6))
    assert found.orders.mean == pytest.approx(5 / 6)
    assert found.orders.spread == pytest.approx((1 / 3) / 2**0.5)
    assert found.orders.agreement == pytest.approx(4 / 6)


def test_a_model_that_always_says_b_agrees_with_itself_only_by_letter() -> None:
    """Its option changes with the order although its letter does not."""
    orders = [OPTIONS, ("rain", "wind", "cat", "dog")]
    checked = [
        check_predictions(
            [prediction(n, "(B)", options=options, choice=1, answer=options.index("cat")) for n in range(6)], QUESTIONS
        )
        for options in orders
    ]
    found = order_robustness(checked)
    assert found.accuracies == (1.0, 0.0)
    assert found.agreement == 0.0


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, r"there is no predictions\.jsonl in"),
        ({"predictions.jsonl": []}, "there is no prediction in the file"),
        ({"predictions.jsonl": [RIGHT[0], prediction(1, question_id="avqa/val/1")]}, r"benchmarks \(avqa, mmau\)"),
        ({"predictions.jsonl": [prediction(1, question_id="mmar/test/1")]}, "predictions of 'mmar'"),
        ({"predictions.jsonl": [RIGHT[0], prediction(1, probe="noise")]}, r"probes of the audio \(none, noise\)"),
        ({"predictions.jsonl": RIGHT, "predictions.jsonl.rank1": RIGHT}, r"rank1 is of a test that has not ended"),
        ({"a/predictions.jsonl": RIGHT, "b/predictions.jsonl": WRONG}, "both answer mmau as it is"),
    ],
)  # fmt: skip
def test_files_that_make_no_run(tmp_path: Path, files: dict[str, list[Prediction]], sentence: str) -> None:
    for name, predictions in files.items():
        write_predictions(tmp_path / name, predictions)
    with pytest.raises(UserError, match=sentence):
        score_run(read_run(f"mine={tmp_path}", {"mmau": QUESTIONS}), {"mmau": QUESTIONS})
    with pytest.raises(UserError, match="nowhere is missing"):
        read_run("mine=nowhere", {"mmau": QUESTIONS})
