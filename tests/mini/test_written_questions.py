"""The synthetic world's writer of questions, its prior, and which questions the world knows to be right."""

import json
from collections import Counter

import numpy as np
import pytest

from answers.written_question import read_question
from corpus.evidence import Evidence
from corpus.judged_questions import judged_questions
from datamodules.prompts.question_kinds import QUESTION_KINDS
from datamodules.prompts.question_writer import WRITE_QUESTION
from mini.world.authoring import ASKED, asked_kind, authored, guessed
from mini.world.claims import answer_truth
from mini.world.hearing import NOTHING
from mini.world.question_quality import is_right, quality_at_gates
from mini.world.sounds import SOUNDS
from tests.support.written_questions import asked, proposal


def test_it_reads_the_prompt() -> None:
    for kind in QUESTION_KINDS.values():
        assert asked_kind(WRITE_QUESTION.render(kind)) == kind.name
    assert asked_kind("Which sound is heard?\n(A) dog") is None and set(ASKED) <= set(QUESTION_KINDS)


def test_it_writes_questions_and_faults_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    faults = Counter(read_question(authored("Which", ["bell", "dog"], rng)).fault for _ in range(1000))
    assert set(faults) == {"", "no JSON object", "not 3 wrong options", "no answer"}
    assert 0.85 < faults[""] / 1000 < 0.97
    for kind, believed in (("Why", ["bell"]), ("Which", []), ("Before Next", ["bell"])):
        assert authored(kind, believed, rng) == json.dumps({"question": None})


def test_which_questions_are_right() -> None:
    which = asked("Which sound can be heard in the audio?", "bell", "dog", "drum", "rain")
    assert is_right(which, ("bell", "siren")) and not is_right(which, ("bell", "dog")) and not is_right(which, ("dog",))
    first = asked("Which sound comes first in the audio?", "bell", "dog", "drum", "rain")
    assert is_right(first, ("bell", "dog")) and not is_right(first, ("dog", "bell")) and not is_right(first, ())
    count = asked("How many sounds are heard in the audio?", "two", "one", "three", "four")
    assert is_right(count, ("bell", "dog")) and not is_right(count, ("bell",))
    assert not is_right(asked("Which thing is seen first in the video?", "bell", "dog"), ("bell",))
    for again in ("Bell", "the bell"):
        assert not is_right(asked("Which sound can be heard in the audio?", "bell", again, "dog", "rain"), ("bell",))


def test_precision_and_recall_at_gates() -> None:
    text = "Which sound can be heard in the audio?"
    good, wrong = (proposal(clip, 0, text, "bell", "dog", "drum", "rain") for clip in "ab")
    seen = proposal("a", 1, "Which thing is seen first in the video?", "bell", "dog", "drum", "rain")
    judged = list(judged_questions(Evidence([good, seen, wrong, proposal("b", 1, "", fault="declined")])))
    found = {one.gate: one for one in quality_at_gates(judged, {"a": ["bell"], "b": ["rain"]})}
    proposed = found["proposed"]
    assert (proposed.kept, proposed.precision, proposed.recall) == (3, pytest.approx(1 / 3), 1.0)
    assert (found["words of sight"].kept, found["words of sight"].precision) == (2, 0.5)
    assert (found["grounding"].kept, found["grounding"].precision, found["grounding"].recall) == (0, None, 0.0)


def test_the_prior_guesses_from_the_wording() -> None:
    rng = np.random.default_rng(0)
    assert guessed(("bell", "dog", "rain"), "Which sound does the dog make?", rng) == "dog"
    assert guessed(("bell", "a dog that barks at the door", "rain"), "Which?", rng) == "a dog that barks at the door"
    counts = Counter(guessed(("bell", "dog", "rain", "drum"), "Which?", rng) for _ in range(400))
    assert all(70 < count < 130 for count in counts.values()) and len(counts) == 4


def test_the_checker_judges_an_answer_by_what_it_hears() -> None:
    likely = np.full((3, NOTHING + 1), 1e-4)
    for slot, sound in enumerate((SOUNDS.index("bell"), NOTHING, SOUNDS.index("dog"))):
        likely[slot, sound] = 0.99
    which, first = "Which sound can be heard in the audio?", "Which sound comes first in the audio?"
    assert answer_truth(likely, which, "dog") > 0.9 > 0.1 > answer_truth(likely, which, "rain")
    assert answer_truth(likely, first, "bell") > 0.9 > 0.1 > answer_truth(likely, first, "dog")
    assert answer_truth(likely, which, "something") < 0.1
