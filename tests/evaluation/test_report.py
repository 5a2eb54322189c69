"""The report, in a real browser and as files."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
import soundfile

from evaluation.__main__ import main
from evaluation.checked import check_predictions
from evaluation.examples import pick
from evaluation.plots import read_curves
from runtime.errors import UserError
from tests.support.browser import Browser, find_or_install
from tests.support.dataset_files import tone
from tests.support.predictions import OPTIONS, prediction, question, write_mmau, write_predictions

HOSTILE = "<think>I hear <b>a</b> cat <script>document.title = 'hacked'</script></think><answer>cat</answer>"
METRICS = (
    "epoch,step,train/reward,train/reward/accuracy,val/accuracy\n0,0,1.2,0.4,\n0,1,,,0.5\n0,2,1.6,0.8,\n0,3,,,0.75\n"
)
OTHER_ORDER = ("cat", "dog", "wind", "rain")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two runs: six questions, of which one has no clip."""
    root = tmp_path_factory.mktemp("report")
    questions = [question(number, text="What is <heard>?") for number in range(6)]
    write_mmau(root / "data", questions)
    for number in range(5):
        clip = root / "data" / "mmau" / questions[number].media
        clip.parent.mkdir(exist_ok=True)
        soundfile.write(clip, tone(1.5, 300 + 50 * number), 16_000)
    good = [prediction(0, HOSTILE, choice=1), *(prediction(number) for number in range(1, 6))]
    bad = [prediction(number, "<answer>dog</answer>") for number in range(5)]
    write_predictions(root / "good" / "predictions.jsonl", good)
    silent = [prediction(number, "<answer>dog</answer>", probe="silence") for number in range(6)]
    write_predictions(root / "good" / "silence" / "predictions.jsonl", silent)
    turned = [prediction(number, "(A)", options=OTHER_ORDER, choice=0, answer=0) for number in range(6)]
    write_predictions(root / "good" / "order-1" / "predictions.jsonl", turned)
    write_predictions(root / "bad" / "predictions.jsonl", [*bad, prediction(5, "a whale", choice=None)])
    (root / "metrics.csv").write_text(METRICS)
    (root / "paper.yaml").write_text(
        "t: {title: Their table, benchmarks: [mmau], "
        "rows: [{name: good, title: Ours, figures: {mmau: {average: 61.5}}}]}"
    )
    arguments = ["report", f"good={root / 'good'}", f"bad={root / 'bad'}", "--data", str(root / "data")]
    arguments += ["--paper", str(root / "paper.yaml"), "--metrics", f"grpo={root / 'metrics.csv'}"]
    main([*arguments, "--output", str(root / "out"), "--title", "A <title>"])
    return root / "out"


@pytest.fixture
def page(directory: Path, browser: Browser) -> Browser:
    browser.open((directory / "report.html").as_uri())
    return browser


def shown(page: Browser) -> int:
    """How many examples can be seen."""
    return int(page.evaluate("[...document.querySelectorAll('.example')].filter(e => e.offsetParent !== null).length"))


def choose(page: Browser, **filters: str) -> tuple[int, str]:
    """Set the filters as a user does, and return how many examples are seen and what the page says of it."""
    for name in ("run", "benchmark", "category", "verdict"):
        page.evaluate(
            f"{{ const list = document.querySelector('select[name={name}]'); list.value = {filters.get(name, '')!r};"
            "list.dispatchEvent(new Event('change', {bubbles: true})); }"
        )
    return shown(page), page.evaluate("document.getElementById('shown').value")


def test_filters(page: Browser) -> None:
    assert shown(page) == 12
    assert choose(page, run="good") == (6, "6 of 12")
    assert choose(page, run="bad", verdict="wrong") == (5, "5 of 12")
    assert choose(page, verdict="unparseable") == (1, "1 of 12")
    assert choose(page, verdict="right", category="music") == (2, "2 of 12")
    assert choose(page, run="bad", verdict="right") == (0, "0 of 12")
    assert choose(page) == (12, "12 of 12")


def test_every_value_can_be_chosen(page: Browser) -> None:
    values = "name => [...document.querySelector(`select[name=${name}]`).options].map(o => o.value)"
    assert page.evaluate(f"({values})('run')") == ["", "bad", "good"]
    assert page.evaluate(f"({values})('category')") == ["", "music", "sound", "speech"]
    assert page.evaluate(f"({values})('verdict')") == ["", "right", "unparseable", "wrong"]


def test_an_example_shows_trace_chosen_and_right_option(page: Browser) -> None:
    first = "document.querySelector('.example[data-run=good]')"
    assert page.evaluate(f"{first}.querySelector('.reasoning').innerText") == (
        "I hear <b>a</b> cat <script>document.title = 'hacked'</script>"
    )
    assert page.evaluate(f"{first}.querySelector('strong').innerText") == "What is <heard>?"
    options = "[...{}.querySelectorAll('li')].map(li => li.innerText)"
    assert page.evaluate(options.format(first)) == ["dog", "cat ← right ← chosen", "rain", "wind"]
    other = "document.querySelector('.example[data-run=bad]')"
    assert page.evaluate(options.format(other)) == ["dog ← chosen", "cat ← right", "rain", "wind"]
    assert page.evaluate("document.title") == "A <title>"


def test_the_clips_play(page: Browser) -> None:
    assert page.evaluate("document.querySelectorAll('audio').length") == 10  # the sixth clip is missing
    seconds = page.evaluate(
        "new Promise((done, fail) => { const a = document.querySelector('audio'); a.muted = true;"
        "a.onerror = () => fail(a.error.message);"
        "a.ontimeupdate = () => a.currentTime > 0.2 && done([a.duration, a.currentTime]); a.play().catch(fail); })"
    )
    assert seconds[0] == pytest.approx(1.5, abs=0.15) and seconds[1] > 0.2
    assert "test-mini-audios/q5.wav: the file is missing" in page.evaluate("document.body.innerText")


def test_plots_are_drawn_and_nothing_is_loaded_from_elsewhere(page: Browser) -> None:
    sizes = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(sizes) == 2 and all(size > 200 for size in sizes)
    asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}
    assert not [e for e in page.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]


def test_tables(page: Browser) -> None:
    cell = (
        "(title, row, column) => [...document.querySelectorAll('h3')].find(h => h.innerText.startsWith(title))"
        ".nextElementSibling.querySelector(`tbody tr:nth-child(${row}) td:nth-child(${column})`).innerText"
    )
    assert page.evaluate(f"({cell})('Their table', 1, 5)").startswith("61.5 / 100.0 [")
    assert page.evaluate(f"({cell})('Their table', 2, 5)").startswith("– / 0.0 [")
    # right with sound, never right in silence: all six are lost, p = 2 / 2 ** 6
    assert page.evaluate(f"({cell})('Can it hear?', 1, 3)") == "0.0, -100.0 [-100.0, -100.0], p = 0.031"
    assert page.evaluate(f"({cell})('Order of the options', 1, 3)") == "100.0"
    assert page.evaluate(f"({cell})('Runs against each other', 1, 2)") == "-100.0 [-100.0, -100.0]"


def test_markdown(directory: Path) -> None:
    text = (directory / "report.md").read_text()
    assert text.startswith("# A <title>\n") and "### Can it hear?" in text
    for link in re.findall(r"\]\((plots/[^)]+)\)", text):
        assert (directory / link).read_text().startswith("<?xml")
    assert len(list((directory / "plots").iterdir())) == 2
    numbers = json.loads((directory / "scores.json").read_text())
    assert numbers["good"]["mmau"]["scores"]["average"]["accuracy"] == 1.0
    assert numbers["good"]["mmau"]["probes"]["silence"]["change"]["difference"] == -1.0
    assert numbers["bad"]["mmau"]["unparseable"] == 1 and numbers["bad"]["mmau"]["orders"] is None
    page = (directory / "report.html").read_text()
    for plot in (directory / "plots").iterdir():
        assert base64.b64encode(plot.read_bytes()).decode() in page


def test_examples_are_of_all_kinds() -> None:
    """Twenty right ones come before the only wrong one in the file, which is picked all the same."""
    questions = [question(number, category="sound") for number in range(21)]
    answers = [*(prediction(number) for number in range(20)), prediction(20, "<answer>dog</answer>")]
    picked = pick(check_predictions(answers, questions).answers, 3)
    assert [answer.question.id.rpartition("/")[2] for answer in picked] == ["q0", "q1", "q20"]
    assert picked[0].question.options == OPTIONS


def test_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    assert read_curves(tmp_path / "metrics.csv") == {
        "train/reward": [(0, 1.2), (2, 1.6)],
        "train/reward/accuracy": [(0, 0.4), (2, 0.8)],
        "val/accuracy": [(1, 0.5), (3, 0.75)],
    }
    for text, sentence in (("step,loss\n1,2\n", "no column"), ("step,train/reward\n1,x\n", "not the metrics.csv")):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_curves(tmp_path / "other.csv")
    with pytest.raises(UserError, match="there is no such file"):
        read_curves(tmp_path / "nothing.csv")


def test_without_a_browser_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="Chromium, which is not installed: apt-get install"):
        find_or_install()
