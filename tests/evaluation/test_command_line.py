"""``python -m evaluation``."""

import json
from pathlib import Path

import pytest

from evaluation.__main__ import main
from evaluation.benchmarks import read_questions
from evaluation.tables import contamination_table, read_paper
from runtime.errors import UserError
from tests.support.predictions import prediction, question, write_mmau, write_predictions


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_mmau(tmp_path / "data", [question(number) for number in range(6)])


def test_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        prediction(0),
        prediction(1),
        prediction(2, "(A)", choice=0),
        prediction(3, "?"),
        prediction(3),
        prediction(9),
    ]
    write_predictions(tmp_path / "run" / "predictions.jsonl", answers)  # fmt: skip
    paper = tmp_path / "paper.yaml"
    paper.write_text(
        "t: {title: Their table, benchmarks: [mmau], "
        "rows: [{name: mine, title: Ours, figures: {mmau: {average: 61.5}}}]}"
    )
    main(["table", f"mine={tmp_path / 'run'}", "--data", str(data), "--paper", str(paper), "--resamples", "50"])
    out = capsys.readouterr().out
    assert "### Their table" in out
    (row,) = [line for line in out.splitlines() if line.startswith("| Ours |")]
    assert row.split("|")[-2].strip().startswith("61.5 / 33.3 [")
    (row,) = [line for line in out.splitlines() if line.startswith("| mine |")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert [cell.split(" ")[0] for cell in cells] == ["mine", "50.0", "50.0", "0.0", "33.3", "33.3", "6", "1"]
    for problem in ("unknown id | 1", "doubled id, other answer | 1", "missing | 2"):
        assert f"| mine, MMAU | {problem} |" in out
    assert "Questions without a prediction are counted as wrong." in out


def test_the_papers_tables_are_for_its_rows(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_predictions(tmp_path / "run" / "predictions.jsonl", [prediction(number) for number in range(6)])
    for name, shown in (("mine", []), ("agfv-sft", ["### Table 2: MMAU test-mini and MUSIC-AVQA"])):
        main(["table", f"{name}={tmp_path / 'run'}", "--data", str(data), "--resamples", "50"])
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("### Table")] == shown


def test_compare(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_predictions(tmp_path / "good.jsonl", [prediction(number) for number in range(6)])
    bad = write_predictions(tmp_path / "bad.jsonl", [prediction(number, "<answer>dog</answer>") for number in range(5)])
    main(["compare", str(bad), str(good), "--data", str(data)])
    out = capsys.readouterr().out
    assert f"{bad}: 0.0% of 5 questions" in out and "1 missing" in out
    assert "difference on 5 common questions: +100.0 points" in out
    assert "McNemar's exact test: p = 0.062" in out  # 2 / 2 ** 5


def test_official_and_defects(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = write_predictions(
        tmp_path / "answers.jsonl", [prediction(number, "(B)", choice=1) for number in range(6)]
    )
    main(["official", str(answers), str(tmp_path / "predictions.json"), "--data", str(data)])
    assert {row["model_output"] for row in json.loads((tmp_path / "predictions.json").read_text())} == {"cat"}
    assert "6 rows; every row has a prediction" in capsys.readouterr().out
    main(["defects", "--data", str(data)])
    assert "a wrong choice is accepted in 0 rows" in capsys.readouterr().out


def test_questions_without_answers(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MMAU's full test set: nothing is scored, everything is counted, and the official file is written."""
    rows = json.loads((data / "mmau" / "mmau-test-mini.json").read_text())
    full = data / "mmau" / "mmau-test.json"
    full.write_text(json.dumps([row | {"answer": ""} for row in rows]))
    made = [prediction(n, "(B)", choice=1, question_id=f"mmau/test/q{n}", answer=None) for n in range(5)]
    answers = write_predictions(tmp_path / "full" / "predictions.jsonl", made)
    asked = ["--data", str(data), "--annotations", str(full)]

    main(["table", f"mine={answers.parent}", *asked, "--resamples", "20"])
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("| mine |")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["mine", *["no answers"] * 5, "0", "0"]
    assert "| mine, MMAU | no answer | 6 |" in out and "| mine, MMAU | missing | 1 |" in out
    main(["report", f"mine={answers.parent}", *asked, "--output", str(tmp_path / "report"), "--no-audio"])
    assert '"no answer": 6' in (tmp_path / "report" / "scores.json").read_text()
    capsys.readouterr()

    main(["official", str(answers), str(tmp_path / "out" / "predictions.json"), *asked])
    assert "6 rows; 5 have a prediction, 6 no answer, 1 missing" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["model_output"] for row in written] == ["cat"] * 5 + [""]
    main(["defects", *asked])
    assert "6 of 6 rows were passed over" in capsys.readouterr().out
    with pytest.raises(UserError, match="no question with an answer in common"):
        main(["compare", str(answers), str(answers), *asked])
    with pytest.raises(UserError, match=r"asked was mmau/test, here is mmau/test-mini\); .* set --annotations"):
        main(["table", str(answers), "--data", str(data)])


def test_clips_may_be_links(data: Path, tmp_path: Path) -> None:
    """Whoever tests with data.follow_links must be able to score: the clips themselves are not looked at."""
    (tmp_path / "elsewhere").mkdir()
    (data / "mmau" / "test-mini-audios").symlink_to(tmp_path / "elsewhere")
    assert len(read_questions("mmau", data)) == 6


def test_some_questions_without_answers(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "mmau" / "mmau-test-mini.json"
    rows = json.loads(file.read_text())
    for row in rows[:2]:
        del row["answer"]
    odd = [{"choices": ["a", "b"], "answer": "a"}, "a text", rows[5] | {"id": "n", "choices": [1, 2], "answer": 2}]
    file.write_text(json.dumps(rows + odd))
    made = [prediction(n) for n in range(5)] + [prediction(5, "<answer>dog</answer>")]
    made.append(prediction(0, "2", question_id="mmau/test-mini/n", options=("1", "2"), choice=1))
    answers = write_predictions(tmp_path / "run" / "predictions.jsonl", made)
    main(["table", f"mine={answers}", "--data", str(data), "--resamples", "20"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mine |")]
    cells = [cell.strip().split(" ")[0] for cell in row.split("|")[1:-1]]
    # right are q2, q3, q4 and n of q2 to q5 and n; speech is q2, q5, n
    assert cells == ["mine", "100.0", "100.0", "66.7", "80.0", "80.0", "5", "0"]


def test_what_cannot_be_scored(data: Path, tmp_path: Path) -> None:
    silent = write_predictions(tmp_path / "silent.jsonl", [prediction(0, probe="silence")])
    with pytest.raises(UserError, match="mmau is answered with probed audio or shuffled options only"):
        main(["table", str(silent), "--data", str(data)])
    plain = write_predictions(tmp_path / "plain.jsonl", [prediction(0)])
    with pytest.raises(UserError, match="two runs are called a"):
        main(["table", f"a={plain}", f"a={plain}", "--data", str(data)])
    with pytest.raises(UserError, match="none of the folders avqa, mmau, music_avqa is there"):
        main(["table", str(plain), "--data", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "must have title, benchmarks and rows"),
        ("t: {title: x}", "t must have title, benchmarks and rows"),
        ("t: {title: x, benchmarks: [], rows: [{name: a}]}", "each row must have a name and a title"),
        ("t: {title: x, benchmarks: [], rows: [{name: a, title: b, figures: {mmar: {}}}]}", "no benchmark 'mmar'"),
        ("t: {title: x, benchmarks: [], rows: [{name: a, title: b, figures: {mmau: {Sound: 1}}}]}", "column 'Sound'"),
        ("{", "not YAML"),
    ],
)  # fmt: skip
def test_bad_figures_of_the_paper(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "paper.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_paper(tmp_path / "paper.yaml")


def test_leaked_clips_are_listed(tmp_path: Path) -> None:
    line = {
        "set": "mmau",
        "benchmark": "a.wav",
        "train": "b.mp4",
        "how": "same sound",
        "why": "x",
        "questions": ["1", "2"],
    }
    (tmp_path / "shared.jsonl").write_text(json.dumps(line) + "\n")
    table = contamination_table(tmp_path / "shared.jsonl")
    assert table.rows == (("mmau: a.wav", "b.mp4", "same sound", "x", "2"),)
    (tmp_path / "shared.jsonl").write_text("")
    assert contamination_table(tmp_path / "shared.jsonl").note == "None was found."
    (tmp_path / "shared.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"shared\.jsonl: line 1 is not of the command audit"):
        contamination_table(tmp_path / "shared.jsonl")
    with pytest.raises(UserError, match="no such file or directory; write it with the command audit"):
        contamination_table(tmp_path / "nothing.jsonl")


def test_the_rows_of_the_paper_have_figures_and_configurations() -> None:
    root = Path(__file__).parents[2]
    paper = read_paper()
    assert [len(table["rows"]) for table in paper.values()] == [16, 10]
    rows = {(key, row["name"]): row["figures"] for key, table in paper.items() for row in table["rows"]}
    assert rows["table1", "qwen2-audio-cot-distill"] == {"avqa": {"average": 82.7}}
    assert rows["table2", "tts-agfv-sft-grpo"]["mmau"] == {
        "sound": 66.1,
        "speech": 49.8,
        "music": 52.7,
        "average": 56.2,
    }
    assert rows["table2", "tts-agfv-sft-grpo"]["music_avqa"]["Temporal"] == 62.7
    without = {name for _, name in rows if not (root / f"configs/benchmark/rows/{name}.yaml").is_file()}
    assert without == {"audio-thinker-sft", "audio-thinker-grpo"}  # quoted by the paper from another one
