"""The question does not name its answer."""

from corpus.gates.content_words import content_words
from records.records import Question


def answer_in_question(question: Question) -> str:
    """Return why a question gives its answer away, or nothing where it does not.

    It does where all that the answer says stands in the question and no other option does so as well: "What sound does
    the barking dog make?" has "barking", while "Which is first, the bell or the drum?" has two of its options.

    Args:
        question: The question with its answer.
    """
    asked = content_words(question.text)
    named = [bool(words) and words <= asked for words in map(content_words, question.options)]
    if question.answer is None or not named[question.answer] or sum(named) > 1:
        return ""
    return f"the question names {question.answer_text!r} and no other option"
