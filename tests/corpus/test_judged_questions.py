"""Which gate stops a question, on the evidence that there is."""

from corpus.evidence import Evidence
from corpus.judged_questions import WAITING, counts_at_gates, judged_questions, question_id, question_of
from records.records import Trace
from tests.support.written_questions import heard, proposal, votes

DOG = ("a dog", "a cat", "rain", "a violin")
ID = "avqa/train/a.0"
GOOD = proposal("a", 0, "Which sound is heard?", *DOG)


def gate(*proposals, **evidence) -> list[tuple[str, str]]:
    return [(one.outcome.gate, one.outcome.reason) for one in judged_questions(Evidence(proposals, **evidence))]


def test_each_gate_in_its_order() -> None:
    found = gate(
        proposal("a", 0, "", fault="no JSON object"),
        proposal("a", 1, "Which?", "a dog", "Dog", "rain", "a cat"),
        proposal("a", 2, "What is seen?", *DOG),
        proposal("a", 3, "What does the dog do?", *DOG),
        proposal("a", 4, "Which is it?", "a dog that barks loudly at the door", "a cat", "rain", "a bell"),
        proposal("b", 0, "Which sound is heard?", *DOG),
        proposal("b", 1, "which sound is  heard?", "a bell", "a cat", "rain", "a drum"),
        proposal("c", 0, "Which sound is heard?", *DOG),
    )
    names = ["readable", "distinct options", "words of sight", "given away", "answer length"]
    assert [name for name, _ in found] == [*names, "prior", "repeated", "prior"]
    assert found[0][1] == "no JSON object" and found[5][1] == found[7][1] == WAITING


def test_from_stage_to_stage() -> None:
    prior = {ID: votes(ID, "a cat", "a dog")}
    teacher = {ID: votes(ID, "a dog", "a dog", "a dog")}
    known = {ID: votes(ID, "a dog", "a dog")}
    assert gate(GOOD, prior=known) == [("prior", "2 of 2 answers without the clip are right")]
    assert gate(GOOD, prior=prior) == [("unanimity", WAITING)]
    split = {ID: votes(ID, "a dog", "a cat", "a dog")}
    assert gate(GOOD, prior=prior, teacher=split) == [("unanimity", "2 of 3 answers are the written one")]
    assert gate(GOOD, prior=prior, teacher=teacher) == [("grounding", WAITING)]
    refused = gate(GOOD, prior=prior, teacher=teacher, grounding={ID: heard(ID, False)})
    assert refused[0][0] == "grounding" and refused[0][1] != WAITING
    [kept] = judged_questions(Evidence([GOOD], prior, teacher, {ID: heard(ID, True)}))
    outcome = kept.outcome
    assert kept.passed and (outcome.prior_right, outcome.prior_asked, outcome.votes, outcome.voters) == (1, 2, 3, 3)
    assert (outcome.checker, outcome.probability, outcome.writer) == ("checker", 0.9, "writer")


def test_half_the_answers_of_a_stage_are_waited_for() -> None:
    other = proposal("b", 0, "Which sound is heard?", *DOG)
    prior = {ID: votes(ID, "a dog"), question_id(other): votes(question_id(other), "a cat", "a cat")}
    assert gate(GOOD, other, prior=prior) == [("prior", WAITING), ("unanimity", WAITING)], "1 of 1 right is not 2 of 2"


def test_records_of_a_question_that_has_changed_are_not_evidence() -> None:
    question = question_of(GOOD)
    assert question is not None
    for fingerprint, expected in ((question.fingerprint, "unanimity"), ("of another", "prior")):
        prior = {ID: [Trace(ID, 0, "", "a cat", "m", question_fingerprint=fingerprint)]}
        assert gate(GOOD, prior=prior) == [(expected, WAITING)]


def test_a_question_that_was_asked_anew_is_judged_by_its_own_answers() -> None:
    question = question_of(GOOD)
    assert question is not None
    stale, fresh = (
        [Trace(ID, sample, "", "a cat", "m", question_fingerprint=mark) for sample in range(2)]
        for mark in ("of another", question.fingerprint)
    )
    assert gate(GOOD, prior={ID: [*stale, *fresh]}) == [("unanimity", WAITING)]


def test_counts_add_up() -> None:
    proposals = [proposal("a", 0, "", fault="declined"), proposal("a", 1, "What is seen?", *DOG), GOOD]
    counts = counts_at_gates(one.outcome for one in judged_questions(Evidence(proposals)))
    assert counts["readable"] == (3, 1, 0) and counts["words of sight"] == (2, 1, 0)
    assert counts["prior"] == (1, 0, 1) and counts["grounding"] == (0, 0, 0)
