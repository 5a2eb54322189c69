"""Reasoning and answer out of what teachers write, whatever their tags."""

import dataclasses
import time

import pytest

from answers.answers import match_option
from datamodules.traces import TracedQuestion, sft_targets
from inference.chat_api.chat_endpoint import Choice
from lightning_modules.objectives.rewards import AccuracyReward, FormatReward
from lightning_modules.remote_qa import completion_of
from lightning_modules.teacher import read_trace
from records.reasoning_tags import split_thought, without_tags
from records.records import Question, Trace

QUESTION = Question("x", "avqa", "x.mp4", "Q?", ("dog", "cat"), 0, "Which")


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>It barks.</think><answer>dog</answer>", "It barks.", "dog"),
        ("It barks.\n</think>\n\n<answer>dog</answer>", "It barks.", "dog"),
        ("It barks.</think>dog", "It barks.", "dog"),
        ("<think>\n\n</think>\n\nIt barks.<answer>dog</answer>", "It barks.", "dog"),
        ("<think></think>It barks. So it is the dog.", "It barks. So it is the dog.", "dog"),
        ("It barks.<think></think><answer>dog</answer>", "It barks.", "dog"),
        ("<thinking>It barks.</thinking><answer>dog</answer>", "It barks.", "dog"),
        ("< Think >It barks.</ THINK >\n< answer >dog</answer>", "It barks.", "dog"),
        ("<reasoning>It barks.</reasoning><answer>dog</answer>", "It barks.", "dog"),
        ("<think>I write <answer> later. It barks.</think><answer>dog</answer>", "I write later. It barks.", "dog"),
        ("<think>I end with <answer>cat</answer>? It barks.</think>dog", "I end with cat ? It barks.", "dog"),
        ("<think>It barks.<answer>dog</answer></think>", "It barks.", "dog"),
        ("<think>It barks.</think><answer>dog</answer></think>", "It barks.", "dog"),
        ("<think>It barks.</think>Hm.<think>Loudly.</think><answer>dog</answer>", "It barks. Hm. Loudly.", "dog"),
        ("<think><think>It barks.</think></think><answer>dog</answer>", "It barks.", "dog"),
        ("<think>It barks.<answer>dog</answer>", "It barks.", "dog"),
        ("It barks.<answer>dog</answer>", "It barks.", "dog"),
        ("<think> </think>\n<answer>dog</answer>", "", "dog"),
        ("<think> <think> </think> </think> It barks. <answer>dog</answer>", "It barks.", "dog"),
        ("Well. <think>It barks.</think><answer>dog</answer>", "It barks.", "dog"),
        ("<answer>dog</answer>", "", "dog"),
        ("1 < 2 and <b>bold</b> stay.</think>dog", "1 < 2 and <b>bold</b> stay.", "dog"),
    ],
)
def test_reasoning_never_holds_a_tag(text: str, reasoning: str, answer: str) -> None:
    found = read_trace(Choice(text), QUESTION)
    assert found == (reasoning, answer)
    trace = Trace("x", 0, reasoning, answer, "t")
    (target,) = sft_targets(TracedQuestion(QUESTION, (trace,), "dog"), "cot")
    assert target == f"<think>{reasoning}</think><answer>{answer}</answer>"
    assert all(target.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_a_thought_that_was_cut_is_no_answer() -> None:
    assert read_trace(Choice("<think>It may be a dog", finish_reason="length"), QUESTION) == ("It may be a dog", None)
    assert read_trace(Choice("dog? <answer>", "It barks.", "length"), QUESTION)[0] == "It barks."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>It barks.</think><answer>dog", None),
        ("<think>I will write <answer>dog", None),
        ("<think>It barks.</think><answer>dog</answer> and", "dog"),
    ],
)
def test_what_was_cut_before_its_answer_has_none_as_in_the_reward(text: str, answer: str | None) -> None:
    cut = Choice(text=text, reasoning="", finish_reason="length", first_token=None)
    assert read_trace(cut, QUESTION)[1] == answer
    assert AccuracyReward()(text, QUESTION, "dog", finished=False) == float(answer is not None)


def test_blanks_without_end_take_no_time() -> None:
    begun = time.process_time()
    without_tags("<" + 40_000 * " ")
    split_thought("x" + 40_000 * " ")
    FormatReward()("<think><" + 40_000 * " " + "</think><answer>dog</answer>", QUESTION, "dog")
    match_option("<" + 40_000 * " ", QUESTION.options)
    match_option(20_000 * "<b>" + "</", QUESTION.options)
    assert time.process_time() - begun < 2


def test_reasoning_of_the_server_goes_first_and_loses_its_tags() -> None:
    assert read_trace(Choice("<answer>dog</answer>", "<think>\nIt barks.</think>"), QUESTION) == ("It barks.", "dog")
    assert read_trace(Choice("It barks.<answer>dog</answer>", "<think></think>"), QUESTION) == ("It barks.", "dog")
    assert completion_of(Choice("dog", "It barks.</think>")) == "<think>It barks.</think>dog"
    assert completion_of(Choice("<think>a</think>dog", "<think>")) == "<think>a</think>dog"


def test_traces_of_older_files_make_targets_with_each_tag_once() -> None:
    trace = Trace("x", 0, "It <answer>barks.\n</think>", "dog", "t")
    assert sft_targets(TracedQuestion(QUESTION, (trace, dataclasses.replace(trace, sample=1)), "dog"), "cot") == (
        2 * ("<think>It barks.</think><answer>dog</answer>",)
    )


def test_parts() -> None:
    assert split_thought("a</think>b<answer>c") == ("a", "b<answer>c")
    assert split_thought("") == ("", "")
    assert without_tags("  </thought> a <think/>b ") == "a b"
