import pytest

from datamodules.prompts.questions import DIRECT, PROMPTS, THINK, THINK_SHORT, Prompt
from records.records import Question
from runtime.errors import UserError

QUESTION = Question("avqa/val/1", "avqa", "a.mp4", "What {is} it?", ("a dog", "a {cat}"), 0, "Which")


def test_options_are_lettered() -> None:
    assert THINK.render(QUESTION).startswith("What {is} it?\nOptions:\n(A) a dog\n(B) a {cat}\n")
    assert THINK_SHORT.render(QUESTION) == "What {is} it? (A) a dog (B) a {cat} think"


def test_think_asks_for_both_parts_and_direct_for_one() -> None:
    assert "<think> </think>" in THINK.template
    assert "<answer> </answer>" in THINK.template
    assert "<think>" not in DIRECT.template


def test_identifiers_are_unique() -> None:
    assert THINK.identifier == "think/1"
    assert len({prompt.template for prompt in PROMPTS.values()}) == len(PROMPTS)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{question}", r"must have the fields \{question\} and \{options\}, found \['question'\]"),
        ("nothing", "found none"),
        ("{question} {options} {answer}", "found"),
        ("{question} {options", "the template is broken"),
    ],
)
def test_broken_templates_are_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=f"prompt 'mine': .*{message}"):
        Prompt(name="mine", template=template)
