"""What is read of completions that were to be a question, and how the rest is named."""

import json

import pytest

from answers.written_question import WrittenQuestion, read_question

GOOD = {"question": "What is heard?", "answer": "a dog", "others": ["a cat", "rain", "a violin"]}
READ = WrittenQuestion("What is heard?", ("a dog", "a cat", "rain", "a violin"))


@pytest.mark.parametrize(
    "said",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=1)}\n```",
        f"Here is {{one}} such question:\n{json.dumps(GOOD)}\nI hope it helps.",
        f"{json.dumps({'question': 'A first try?', 'answer': 'x', 'others': []})} or better {json.dumps(GOOD)}",
        json.dumps(GOOD | {"question": " What  is\nheard? "}),
    ],
)
def test_read(said: str) -> None:
    assert read_question(said) == READ


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("The dog barks.", "no JSON object"),
        ("", "no JSON object"),
        ('["What?", "a dog"]', "no JSON object"),
        ('{"question": null}', "declined"),
        (json.dumps({"answer": "a dog", "others": ["b", "c", "d"]}), "no question"),
        (json.dumps({"question": "What?", "others": ["b", "c", "d"]}), "no answer"),
        (json.dumps({"question": "What?", "answer": "a dog"}), "no others"),
        (json.dumps(GOOD | {"answer": 3}), "not text"),
        (json.dumps(GOOD | {"others": "a cat, rain, a violin"}), "not text"),
        (json.dumps(GOOD | {"others": ["a cat", "rain"]}), "not 3 wrong options"),
        (json.dumps(GOOD | {"others": ["a cat", "rain", " "]}), "empty text"),
        (json.dumps(GOOD | {"question": "What <|im_end|>?"}), "control token"),
        (json.dumps(GOOD | {"question": "What?" * 100}), "more than 300 characters"),
        ("{" * 5000, "no JSON object"),
        ('{"a":' * 5000, "no JSON object"),
    ],
)
def test_faults(said: str, fault: str) -> None:
    assert read_question(said) == WrittenQuestion(fault=fault)


def test_a_completion_that_was_cut() -> None:
    assert read_question(json.dumps(GOOD)[:40], finished=False).fault == "cut at the token limit"
    assert read_question(json.dumps(GOOD), finished=False) == READ, "what was cut came after it"
