from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.traces import TraceFilter, TracesDataModule, select_traces
from records.record_files import record_files
from records.records import Question, RecordError, Trace, Verdict, write_jsonl
from runtime.errors import UserError
from tests.support.dataset_files import avqa_row

OPTIONS = ("a dog", "a cat", "a violin", "rain")


def question(number: int) -> Question:
    return Question(f"avqa/train/{number}", "avqa", f"videos/clip{number}.mp4", "What?", OPTIONS, number % 4, "Which")


def trace(number: int, sample: int, answer: str | None, reasoning: str = "It barks.") -> Trace:
    return Trace(f"avqa/train/{number}", sample, reasoning, answer, "teacher")


def verdict(number: int, sample: int, accepted: bool) -> Verdict:
    return Verdict(f"avqa/train/{number}", sample, accepted, "checker")


TRACES = [
    trace(0, 1, " A Dog"),  # question 0: unanimous, in mixed spelling and order
    trace(0, 0, "a dog"),
    trace(1, 0, "a dog"),  # question 1: a majority of wrong answers
    trace(1, 1, "a cat"),
    trace(1, 2, "a dog"),
    trace(2, 0, "a violin"),  # question 2: one unreadable answer
    trace(2, 1, None),
    trace(2, 2, "a trumpet"),
    trace(9, 0, "rain"),  # no such question
    trace(0, 0, "rain"),  # a second trace of the same number
]
TEACHER = {"0": "a dog", "1": "a dog", "2": "a violin"}
TRUTH = {"0": "a dog", "1": "a cat", "2": "a violin"}
VERDICTS = [verdict(0, 0, True), verdict(0, 1, False), verdict(1, 0, False), verdict(1, 1, True), verdict(2, 0, False)]


def selected(chosen: TraceFilter) -> tuple[list[tuple[str, list[int], str]], Counter[str]]:
    counts: Counter[str] = Counter()
    found = select_traces([question(n) for n in range(4)], TRACES, VERDICTS, chosen, counts)
    return [(one.question.id[-1], [t.sample for t in one.traces], one.teacher_label) for one in found], counts


COMMON = {
    "traces with the same question and sample as another": 1,
    "questions without traces": 1,
    "traces of questions that are not in the data": 1,
}


def test_all_readable_traces() -> None:
    found, counts = selected(TraceFilter(unanimous=False))
    assert found == [("0", [0, 1], "a dog"), ("1", [0, 1, 2], "a dog"), ("2", [0], "a violin")]
    assert counts == {**COMMON, "traces with an unreadable answer": 2}


def test_unanimous_questions() -> None:
    found, counts = selected(TraceFilter(unanimous=True))
    assert found == [("0", [0, 1], "a dog")]
    assert counts == {**COMMON, "traces of questions that are not unanimous": 6}


def test_verified_traces() -> None:
    found, counts = selected(TraceFilter(unanimous=False, verified=True))
    # the label of question 1 is what most of its traces say, of which only another one was accepted
    assert found == [("0", [0], "a dog"), ("1", [1], "a dog")]
    assert counts == {
        **COMMON,
        "traces with an unreadable answer": 2,
        "traces that the checker rejected": 3,
        "traces without a verdict": 1,
    }


def test_both_filters_and_a_number() -> None:
    assert selected(TraceFilter(unanimous=True, verified=True))[0] == [("0", [0], "a dog")]
    found, counts = selected(TraceFilter(unanimous=False, max_traces=1))
    assert found == [("0", [0], "a dog"), ("1", [0], "a dog"), ("2", [0], "a violin")]
    assert counts["traces beyond max_traces_per_question"] == 3


def test_traces_and_verdicts_of_changed_questions_are_left_out() -> None:
    asked = [question(0), replace(question(1), text="Who?"), question(2)]
    traces = [replace(trace(n, 0, "a dog"), question_fingerprint=question(n).fingerprint) for n in range(2)]
    traces += [replace(trace(1, 0, "a cat"), question_fingerprint=asked[1].fingerprint), trace(2, 0, "rain")]
    verdicts = [replace(verdict(n, 0, True), question_fingerprint=question(n).fingerprint) for n in range(3)]
    counts: Counter[str] = Counter()
    found = select_traces(asked, traces, verdicts, TraceFilter(), counts)
    assert [one.teacher_label for one in found] == ["a dog", "a cat", "rain"]  # the new one; the old file does not say
    assert counts == {
        "traces of questions that have changed since": 1,
        "verdicts on questions that have changed since": 1,
    }
    found = select_traces(asked, traces, verdicts, TraceFilter(verified=True), Counter())
    assert [one.teacher_label for one in found] == ["a dog", "rain"]


@pytest.fixture
def data(write_avqa: Callable[..., Path], processor_dir: str, tmp_path: Path) -> Callable[..., TracesDataModule]:
    root = write_avqa([avqa_row(n) for n in range(4)], [avqa_row(n) for n in range(2)])
    write_jsonl(tmp_path / "shards" / "a.jsonl", TRACES[:4])
    write_jsonl(tmp_path / "shards" / "b.jsonl", TRACES[4:])
    write_jsonl(tmp_path / "verdicts.jsonl", VERDICTS)

    def make(**settings: Any) -> TracesDataModule:
        defaults: dict[str, Any] = {
            "traces": str(tmp_path / "shards"),
            "batch_size": 1,
            "num_workers": 0,
            "processor": processor_dir,
        }
        return TracesDataModule(str(root), **{**defaults, **settings})

    return make


@pytest.mark.parametrize(
    ("settings", "targets"),
    [
        (
            {},
            {
                "0": [
                    "<think>It barks.</think><answer>a dog</answer>",
                    "<think>It barks.</think><answer>a dog</answer>",
                ]
            },
        ),
        (
            {"unanimous": False, "max_traces_per_question": 1},
            {
                "0": ["<think>It barks.</think><answer>a dog</answer>"],
                "1": ["<think>It barks.</think><answer>a dog</answer>"],
                "2": ["<think>It barks.</think><answer>a violin</answer>"],
            },
        ),
        ({"unanimous": False, "target": "teacher_label"}, {n: [f"<answer>{a}</answer>"] for n, a in TEACHER.items()}),
        (
            {"unanimous": False, "target": "ground_truth_label"},
            {n: [f"<answer>{a}</answer>"] for n, a in TRUTH.items()},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:avqa traces")
def test_targets(
    data: Callable[..., TracesDataModule], settings: dict[str, Any], targets: dict[str, list[str]]
) -> None:
    made = data(**settings)
    made.setup("fit")
    batches = list(made.train_dataloader())
    assert {b.questions[0].id[-1]: b.completions.texts[0] for b in batches} == targets
    assert next(iter(made.val_dataloader())).completions is None


@pytest.mark.filterwarnings("ignore:avqa traces")
def test_questions_with_different_numbers_of_traces_share_a_batch(data: Callable[..., TracesDataModule]) -> None:
    made = data(unanimous=False, batch_size=3)
    (batch,) = made.train_dataloader()
    assert batch.completions.ids.shape[:2] == (3, 3)
    lengths = {
        q.id[-1]: mask.any(-1).sum().item() for q, mask in zip(batch.questions, batch.completions.mask, strict=True)
    }
    assert lengths == {"0": 2, "1": 3, "2": 1}


@pytest.mark.filterwarnings("ignore:avqa traces")
def test_a_batch_of_traces(data: Callable[..., TracesDataModule]) -> None:
    """With one trace in an item a batch of the paper is so many traces, whichever questions they belong to."""
    made = data(unanimous=False, batch_size=2, traces_per_item=1)
    batches = list(made.train_dataloader())
    assert [len(batch) for batch in batches] == [2, 2, 2]
    seen = Counter(question.id[-1] for batch in batches for question in batch.questions)
    assert seen == {"0": 2, "1": 3, "2": 1}
    assert all(batch.completions.ids.shape[:2] == (2, 1) for batch in batches)


def test_control_tokens_are_taken_out_of_targets(data: Callable[..., TracesDataModule], tmp_path: Path) -> None:
    reasoning = "It barks.<|im_end|>\n<|im_start|>user <|AUDIO|>more"
    write_jsonl(tmp_path / "leaking.jsonl", [trace(0, 0, "a dog", reasoning)])
    made = data(traces=str(tmp_path / "leaking.jsonl"))
    with pytest.warns(UserWarning, match=r"1 traces have control tokens such as <\|im_end\|>"):
        made.setup("fit")
    ((text,),) = next(iter(made.train_dataloader())).completions.texts
    assert text == "<think>It barks.\nuser more</think><answer>a dog</answer>"


def test_traces_without_a_thought_are_no_targets_and_are_counted(
    data: Callable[..., TracesDataModule], tmp_path: Path
) -> None:
    thoughts = ["", " \n", "<think></think>", "<|im_end|>", "It barks.", "It barks again."]
    write_jsonl(tmp_path / "some.jsonl", [trace(0, s, "a dog", thought) for s, thought in enumerate(thoughts)])
    some = {"traces": str(tmp_path / "some.jsonl"), "max_traces_per_question": 1}
    made = data(**some)
    with pytest.warns(UserWarning, match="left out: 4 traces without a thought, 1 traces beyond"):
        made.setup("fit")
    ((text,),) = next(iter(made.train_dataloader())).completions.texts
    assert text == "<think>It barks.</think><answer>a dog</answer>"
    labels = data(**some, target="teacher_label")  # of labels a thought is no part
    labels.setup("fit")
    assert next(iter(labels.train_dataloader())).completions.texts == [["<answer>a dog</answer>"]]
    prompts = data(**some, use="prompts")
    prompts.setup("fit")
    assert next(iter(prompts.train_dataloader())).labels == ["a dog"]
    write_jsonl(tmp_path / "none.jsonl", [trace(0, 0, "a dog", "")])
    with pytest.raises(UserError, match=r"no question with traces remains .*1 traces without a thought"):
        data(traces=str(tmp_path / "none.jsonl")).setup("fit")


@pytest.mark.filterwarnings("ignore:avqa traces")
@pytest.mark.parametrize(("label", "labels"), [("teacher", TEACHER), ("ground_truth", TRUTH)])
def test_prompts_with_labels(data: Callable[..., TracesDataModule], label: str, labels: dict[str, str]) -> None:
    made = data(use="prompts", unanimous=False, label=label)
    batches = list(made.train_dataloader())
    assert all(batch.completions is None for batch in batches)
    assert {batch.questions[0].id[-1]: batch.labels[0] for batch in batches} == labels
    # validation is against the truth
    assert [batch.labels[0] for batch in made.val_dataloader()] == ["a dog", "a cat"]


def test_what_was_left_out_is_said(data: Callable[..., TracesDataModule], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="10 traces; 1 of them on 1 questions are used; left out: ") as said:
        data(verified=True, verdicts=str(tmp_path / "verdicts.jsonl")).setup("fit")
    text = " ".join(str(one.message) for one in said)
    assert "1 traces of questions that are not in the data" in text
    assert "6 traces of questions that are not unanimous" in text
    assert "1 traces that the checker rejected" in text


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"verified": True}, UserError, r"data\.verified needs the checker's verdicts"),
        ({"max_traces_per_question": 0}, UserError, "must be 1 or more, found 0"),
        ({"traces_per_item": 0}, UserError, "data.traces_per_item must be 1 or more, found 0"),
        ({"traces": "nowhere.jsonl"}, RecordError, r"nowhere\.jsonl: the file is missing"),
        ({"traces": "{tmp}/empty"}, RecordError, r"there is no \.jsonl file in this folder"),
        ({"traces": "{tmp}/bad.jsonl"}, RecordError, r"bad\.jsonl:2: field 'sample': expected int, found '0'"),
        ({"traces": "{tmp}/verdicts.jsonl"}, RecordError, r":1: expected schema 'trace/1', found 'verdict/1'"),
        (
            {"traces": "{tmp}/other.jsonl"},
            UserError,
            "no question with traces remains .*1 traces of questions that are not in the data",
        ),
    ],
)
def test_errors(
    data: Callable[..., TracesDataModule], tmp_path: Path, settings: Any, error: type[Exception], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_jsonl(tmp_path / "other.jsonl", [trace(77, 0, "rain")])
    good = trace(0, 0, "rain").to_json()
    (tmp_path / "bad.jsonl").write_text(good + "\n" + good.replace('"sample": 0', '"sample": "0"') + "\n")
    settings = {name: v.format(tmp=tmp_path) if isinstance(v, str) else v for name, v in settings.items()}
    with pytest.raises(error, match=message):
        data(**settings).setup("fit")


def test_files_of_folders_come_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text("")
    assert [file.name for file in record_files([str(tmp_path)])] == ["a.jsonl", "b.jsonl"]


def test_evaluation_needs_no_traces(data: Callable[..., TracesDataModule]) -> None:
    made = data(traces="nowhere.jsonl")
    made.setup("test")
    assert len(made.test_dataloader()) == 2
