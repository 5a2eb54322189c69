"""Answers as models really write them, each with what a careful reader makes of it."""

from dataclasses import dataclass

import pytest

from datamodules.music_avqa import INSTRUMENTS, NUMBERS, SCENERY, WHICH_SOUNDS, YES_NO
from lightning_modules.answers import match_option

ANIMALS = ("dog", "cat", "a dog barking", "rain")
SOLOISTS = ("violin", "guitar", "drum", "piano")
PEOPLE = ("A child", "A woman", "An adult man", "A teenager")
SPEAKERS = ("Man", "Woman", "Child", "Robot")
KEYS = ("C major", "G major", "D major", "A minor")
CHORDS = ("C", "C#", "D", "D#")
SHARPS = ("C#", "F#", "Ebm", "G#")
NOTES = ("C", "D", "G", "A")
JAMS = ("F#:7/1", "B:maj/1", "E:maj/1", "D#:7/1")
MOODS = ("Happy", "Sad", "Angry", "Calm")
PLACES = ("left", "middle", "right")
SECONDS = ("5 seconds", "10 seconds", "15 seconds", "50 seconds")
FOUR = ("one", "five", "six", "two")
YEARS = (
    "one thousand, nine hundred and twenty-nine",
    "one thousand, nine hundred and eight",
    "one thousand, nine hundred and fifty-three",
    "one thousand, nine hundred and forty-five",
)
SEQUENCE = ("Yes, it is the second sound.", "Yes, it is the third sound.", "No, it is not present.")
VOCALS = ("Female voice", "Male voice", "Child's voice", "Instrumental only")
TAILS = ("Temperature isn't the issue.", "Sickness isn't voluntary effort.", "Being sick is fun.")
METRES = ("3/4", "4/4", "6/8", "2/4")
TEMPI = ("94.0 beats per minute", "120.0 beats per minute", "60.0 beats per minute")


@dataclass(frozen=True)
class Row:
    """Options, and what is said with the option that it means."""

    options: tuple[str, ...]
    said: tuple[tuple[str, int | None], ...]


def rows(*kinds: Row) -> list[tuple[str, tuple[str, ...], int | None]]:
    return [(said, row.options, choice) for row in kinds for said, choice in row.said]


ARTICLES = rows(
    Row(
        ANIMALS,
        (
            ("The answer is a cat", 1),
            ("The answer is a cat.", 1),
            ("The answer is A cat.", 1),
            ("Answer: a cat", 1),
            ("Answer: A dog barking", 2),
            ("A cat", 1),
            ("A cat is heard.", 1),
            ("I hear a cat.", 1),
            ("The correct answer is: a dog barking.", 2),
            ("My choice is a dog.", 0),
            ("The answer is a whale.", None),
            ("The answer is an owl.", None),
            ("The answer is a", 0),
            ("The answer is A.", 0),
            ("The answer is A because barking is heard.", 0),
            ("The answer is A, a dog", 0),
            ("Answer: A", 0),
            ("Answer: a", 0),
            ("A, because something barks.", 0),
            ("A whale sings.", None),
            ("The sound is made by a cat", 1),
            ("I think a cat", 1),
        ),
    ),
    Row(SOLOISTS, (("The correct choice is a guitar.", 1), ("My choice: a piano", 3), ("I choose a drum", 2))),
    Row(
        ("a dog", "a man speaking", "rain", "a cat"),
        (
            ("<think>x</think><answer>Answer: a man speaking</answer>", 1),
            ("The man is speaking", 1),
            ("A man speaking", 1),
        ),
    ),
    Row(
        PEOPLE,
        (
            ("The answer is a woman.", 1),
            ("An adult man", 2),
            ("A", 0),
            ("A woman", 1),
            ("a teenager", 3),
            ("The speaker is a woman", 1),
            ("An old robot", None),
        ),
    ),
)

NOTES_AND_SIGNS = rows(
    Row(
        KEYS,
        (
            ("The answer is C major.", 0),
            ("The answer is A minor", 3),
            ("a minor", 3),
            ("The key is A minor.", 3),
            ("E minor", None),
            ("The answer is E minor", None),
            ("The answer is D minor.", None),
            ("(D) A minor", 3),
            ("D. A minor", 3),
            ("D: A minor", 3),
            ("(A)", 0),
            ("B", 1),
            ("C", None),  # the third option or C major?
            ("The answer is (C).", 2),
            ("Option C", 2),
            ("The piece is in G major, not C major", 1),
        ),
    ),
    Row(
        CHORDS,
        (
            ("C#", 1),
            ("C sharp", 1),
            ("C♯", 1),
            ("C", 0),
            ("D#", 3),
            ("D", 2),
            ("(D)", 3),
            ("The answer is C#.", 1),
            ("The answer is D.", 2),
            ("The chord is C#", 1),
            ("The chord played is D# here", 3),
            (r"C\#", 1),
            (r"\boxed{C\#}", 1),
            (r"$\text{C}^\sharp$", 1),
            ("(B) C#", 1),
            ("E", None),
        ),
    ),
    Row(SHARPS, (("F", None), ("F#", 1), ("F sharp", 1), ("Eb minor", 2), ("Ebm", 2), ("G", None), ("(B)", 1))),
    Row(
        NOTES,
        (("(D) A", 3), ("D. A", 3), ("(A) C", 0), ("A", 3), ("C", 0), ("(C)", 2), ("B", 1), ("The note is A.", 3)),
    ),
    Row(("F major", "F# major"), (("F# major", 1), ("F major", 0), ("F sharp major", 1), ("F-sharp major", 1))),
    Row(
        ("Bb minor", "C major", "Ab major"),
        (("B flat minor", 0), ("B-flat minor", 0), ("A♭ major", 2), ("A major", None)),
    ),
    Row(
        JAMS,
        (
            ("B:maj/1", 1),
            ("The answer is B:maj/1.", 1),
            ("B: B:maj/1", 1),
            ("(D) D#:7/1", 3),
            ("D#:7/1", 3),
            ("The answer is E:maj/1", 2),
            ("F#:7", None),
            ("B major", 1),
            ("G:maj/1", None),
        ),
    ),
    Row(
        ("5", "-5", "10", "15"),
        (("-5", 1), ("5", 0), ("minus five", 1), ("−5", 1), ("The answer is -5.", 1), ("-15", None)),
    ),
    Row(
        ("-3 dB", "+3 dB", "0 dB"),
        (("+3 dB", 1), ("-3 dB", 0), ("0 dB", 2), ("The level is -3 dB", 0), ("-30 dB", None)),
    ),
    Row(
        METRES,
        (
            ("4/4", 1),
            ("The time signature is 3/4.", 0),
            (r"\frac{6}{8}", 2),
            ("4", None),
            ("5/4", None),
            ("3/4, not 4/4", 0),
        ),
    ),
    Row(TEMPI, (("94 beats per minute", 0), ("120.0 beats per minute.", 1), ("12 beats per minute", None), ("60", 2))),
    Row(("A+", "A", "A-"), (("A+", 0), ("A-", 2), ("A", 1), ("(C)", 2))),
)

DENIALS = rows(
    Row(
        ANIMALS,
        (
            ("The correct answer is B. Option A is wrong because no dog is heard.", 1),
            ("The answer is (B). Option (D) is wrong: there is no rain.", 1),
            ("B. The others, such as (A) or (D), do not fit.", 1),
            ("<answer>(B) cat, not (A) dog</answer>", 1),
            ("The answer is cat, not dog.", 1),
            ("cat, not a dog", 1),
            ("cat (not dog)", 1),
            ("not (A)", None),
            ("not A", None),
            ("Option A is incorrect.", None),
            ("Option A is wrong.", None),
            ("(A) is not correct", None),
            ("Option A can be ruled out.", None),
            ("The answer is not A.", None),
            ("The answer is not a dog.", None),
            ("The answer is not a dog but a cat.", 1),
            ("not a dog", None),
            ("It is not a dog, it is a cat", 1),
            ("It isn't a dog; it's rain.", 3),
            ("I don't hear a dog", None),
            ("There is no dog", None),
            ("There is no dog, only rain", 3),
            ("neither a dog nor a cat", None),
            ("rain rather than a cat", 3),
            ("a cat instead of a dog", 1),
            ("rain without a dog", 3),
            ("everything except rain", None),
            ("The dog is not heard. The cat is heard.", 1),
            ("There is no doubt that it is a cat", 1),
            ("Options A and C are incorrect, so B", 1),
            ("The wrong answer is A", None),
            ("The answer cannot be A.", None),
            ("A is wrong, C is wrong, D is wrong, so it must be B.", 1),
            ("Option A is unlikely. Option D is likely.", 3),
            ("not only a dog", 0),
            ("答案不是A", None),
            ("答案不是A，而是B", 1),
        ),
    ),
    Row(
        TAILS,
        (
            ("Temperature isn't the issue.", 0),
            ("The answer is Sickness isn't voluntary effort.", 1),
            ("(A) Temperature isn't the issue", 0),
        ),
    ),
    Row(("vocal", "non-vocal"), (("non-vocal", 1), ("vocal", 0), ("The piece is non-vocal", 1))),
    Row(("vocal", "string"), (("non-vocal", None),)),
)

MARKUP = rows(
    Row(
        ANIMALS,
        (
            (r"\(\boxed{B}\)", 1),
            (r"\[ \boxed{\text{B}} \]", 1),
            (r"The answer is \(B\).", 1),
            (r"\boxed {B}", 1),
            (r"\fbox{B}", 1),
            (r"\textit{B}", 1),
            (r"\[\boxed{D}\]", 3),
            (r"$$\boxed{\textbf{(B)}}$$", 1),
            (r"\boxed{\mathrm{B}}", 1),
            (r"\boxed{a dog barking}", 2),
            (r"\boxed{\text{(B) cat}}", 1),
            (r"First \boxed{A}, no: \boxed{B}", 1),
            (r"The dog is \boxed{}", 0),
            (r"\textbf{Answer:} B", 1),
            (r"$B$", 1),
            ("ANSWER: $B", 1),
            ("**Answer: B**", 1),
            ("### Answer\nB", 1),
            ("### Final Answer: **B. cat**", 1),
            ("> B", 1),
            ("- B", 1),
            ("* (B) cat", 1),
            ("__B__", 1),
            ("<b>B</b>", 1),
            ("<strong>(B)</strong> cat", 1),
            ("~~A~~ B", 1),
            ("```\nB\n```", 1),
            ("**B**: cat", 1),
            ("**(B)** cat", 1),
        ),
    ),
)

OTHER_SCRIPTS = rows(
    Row(
        ANIMALS,
        (
            ("答案是B", 1),
            ("选B", 1),
            ("选项B", 1),
            ("B。", 1),
            ("B、cat", 1),
            ("正确选项为 B，因为有猫叫", 1),
            ("正解はBです", 1),
            ("答えはBです。", 1),
            ("答案：B", 1),
            ("答案为B。", 1),
            ("正确答案是 B。", 1),
            ("因此，答案应该是B", 1),
            ("我选择B。", 1),
            ("应选 D", 3),
            ("「B」", 1),
            ("『B』", 1),
            ("（Ｂ）cat", 1),
            ("Ｂ", 1),
            ("정답은 B입니다.", 1),
            ("La respuesta correcta es B.", 1),
            ("La réponse est (B)", 1),
            ("Die Antwort ist B.", 1),
            ("Ответ: B", 1),
            ("A resposta é B.", 1),
            ("答案是cat", 1),
            ("选A或B", None),
            ("答案是A和B", None),
        ),
    ),
)

REFUSALS = rows(
    Row(
        YES_NO,
        (
            ("I'm sorry, no audio was provided.", None),
            ("I'm sorry, but no audio was provided.", None),
            ("I'm sorry, but I can't help with that.", None),
            ("There is no way to tell.", None),
            ("No audio was provided.", None),
            ("There's no audio attached, so I can't say yes or no.", None),
            ("I have no idea.", None),
            ("As an AI language model, I cannot listen to audio, so there is no answer.", None),
            ("I cannot determine whether the answer would be yes.", None),
            ("Yes, there is no doubt.", 0),
            ("Yes. No other instrument is playing.", 0),
            ("No, there is no flute.", 1),
            ("No there isn't", 1),
            ("No\n", 1),
            ("no.", 1),
            ("Yes", 0),
            ("The answer is no.", 1),
            ("The answer is no", 1),
            ("<answer>No, the violin is not playing.</answer>", 1),
            ("<answer> yes </answer>", 0),
            ("Yes or no", None),
            ("Yes, I can hear a violin.", 0),
            ("Nope", 1),
            ("I would say yes.", 0),
            ("I'm sorry, but I can't be certain. The answer is yes.", 0),
        ),
    ),
    Row(
        ("zero", "one", "two"),
        (
            ("I can only read text, one moment please", None),
            ("No one can tell.", None),
            ("Which one?", None),
            ("one of them", None),
            ("only one", 1),
            ("There is one instrument.", 1),
        ),
    ),
    Row(
        PLACES,
        (
            ("I can't tell which one is right", None),
            ("I cannot determine whether the left or the right one plays", None),
            ("The right answer is left.", 0),
            ("right", 2),
            ("It is on the right.", 2),
            ("the centre", 1),
            ("In the center.", 1),
        ),
    ),
    Row(
        ANIMALS,
        (
            ("I'm sorry, but I can't listen to audio. If you describe the dog, I can help.", None),
            ("I'm unable to listen to audio files. Is it a dog?", None),
            ("It is unclear whether it is a dog.", None),
            ("I'm not sure, but it sounds like a dog.", 0),
            ("I can't hear the audio, but the answer is most likely (D).", 3),
            ("Please provide the audio.", None),
            ("None", None),
            ("N/A", None),
            ("...", None),
            ("Unknown", None),
        ),
    ),
)

WHOLE_WORDS = rows(
    Row(
        ("man", "child", "robot"),
        (("<answer>a woman</answer>", None), ("The woman speaks", None), ("human", None), ("a man", 0)),
    ),
    Row(("female", "child"), (("male", None), ("a male voice", None), ("female voice", 0), ("famale", 0))),
    Row(("male", "child"), (("female", None), ("females", None))),
    Row(("ascending", "flat"), (("descending", None), ("ascending", 0), ("The melody is ascending", 0))),
    Row(("increasing", "constant"), (("decreasing", None), ("incresing", 0))),
    Row(("active", "calm"), (("inactive", None), ("hyperactive", None))),
    Row(("happy", "sad"), (("unhappy", None), ("sadness", None))),
    Row(
        SECONDS,
        (
            ("15 seconds", 2),
            ("5 seconds", 0),
            ("500 seconds", None),
            ("5 s", 0),
            ("15", 2),
            ("It lasts 50 seconds.", 3),
        ),
    ),
    Row(
        ("5 seconds", "10 seconds"),
        (("15 seconds", None), ("1.5 seconds", None), ("0.5 seconds", None), ("5.0 seconds", 0)),
    ),
    Row(("10", "20"), (("100", None), ("120", None), ("10", 0), ("twenty", 1), ("10.5", None))),
    Row(("legal", "logical"), (("illegal", None), ("illogical", None))),
    Row(
        VOCALS,
        (("Male voice", 1), ("Female voice", 0), ("A female voice is heard.", 0), ("voice", None), ("Childs voice", 2)),
    ),
    Row(SPEAKERS, (("Woman", 1), ("a man", 0), ("The speaker is a woman.", 1), ("Men", 0), ("Women", 1))),
    Row(
        ("sound of rain", "cat", "bird"),
        (
            ("of", None),
            ("sound", None),
            ("the sound", None),
            ("sound of", None),
            ("rain", 0),
            ("sound of a train", None),
        ),
    ),
    Row(("rain in the forest", "cat", "bird"), (("in", None), ("the", None), ("in the", None), ("forest", 0))),
    Row(
        ("it is raining", "cat", "bird"),
        (("it", None), ("is", None), ("it is", None), ("raining", 0), ("I", None), ("and", None)),
    ),
    Row(
        INSTRUMENTS,
        (
            ("pipe", None),
            ("pipa", INSTRUMENTS.index("pipa")),
            ("guitar", INSTRUMENTS.index("acoustic guitar")),
            ("acoustic_guitar", INSTRUMENTS.index("acoustic guitar")),
            ("bass guitar", INSTRUMENTS.index("electric bass")),
            ("a drum set", INSTRUMENTS.index("drum")),
            ("drums", INSTRUMENTS.index("drum")),
            ("violins", INSTRUMENTS.index("violin")),
            ("The violin comes in first.", INSTRUMENTS.index("violin")),
            ("viola", None),
            ("Sax", INSTRUMENTS.index("saxophone")),
            ("xylophon", INSTRUMENTS.index("xylophone")),
            ("sound", None),
        ),
    ),
)

FORMS = rows(
    Row(
        ANIMALS,
        (
            ('{"answer": "B"}', 1),
            ('```json\n{"answer": "B"}\n```', 1),
            ('{"reasoning": "a dog?", "answer": "B"}', 1),
            ('{"answer": "B", "reasoning": "a dog?"}', 1),
            ("{'answer': 'cat'}", 1),
            ('{"answer": "(B) cat"}', 1),
            ('{"answer": ["B"]}', 1),
            ('{"final_answer": "B. cat", "confidence": 0.9}', 1),
            ('{"choice": "B"}', 1),
            ('{"answer": ""}', None),
            ("<B>", 1),
            ("<answer>B</answer> (I used the <answer> tag)", 1),
            ("<answer>B</answer>\n<answer>", 1),
            ("<answer>B<answer>", 1),
            ("<answer><B></answer>", 1),
            ('<answer>{"answer": "B"}</answer>', 1),
            ("< answer >B</ answer >", 1),
            ("<final_answer>B</final_answer>", 1),
            ("B</answer>", 1),
            ("<|im_start|>B<|im_end|>", 1),
            ('Answer: "B"', 1),
            ("'B'", 1),
            ("“B”", 1),
            ("B,", 1),
            ("B;", 1),
            ("B -", 1),
            ("B - cat", 1),
            ("B – cat", 1),
            ("B) cat", 1),
            ("B.cat", 1),
            ("{B}", 1),
            ("b.", 1),
            ("b) cat", 1),
            ("(b)", 1),
            ("Option B", 1),
            ("option (b)", 1),
            ("Option B: cat", 1),
            ("Choice B.", 1),
            ("The correct option is B, cat.", 1),
            ("The correct option is B because something meows.", 1),
            ("I'd go with option B.", 1),
            ("I would choose (B).", 1),
            ("B is the correct answer.", 1),
            ("(B) is correct.", 1),
            ("Based on the audio, the correct answer is (B) cat.", 1),
            ("So the answer is B: cat.", 1),
            ("Final answer: B", 1),
            ("The answer is:\n\nB", 1),
            ("The answer is:\n**B) cat**", 1),
            ("Answer\nB", 1),
            ("Question: which? Options: (A) dog (B) cat (C) a dog barking (D) rain. Answer: B", 1),
            ("(A) dog (B) cat (C) a dog barking (D) rain", None),
            ("The answer could be A at first, but the answer is B.", 1),
            ("It sounds like a cat.", 1),
            ("The sound in the audio is a cat meowing.", 1),
            ("Cat. The dog is silent.", 1),
            ("cat, dog", None),
            ("cat or dog", None),
            ("The answer is a cat or a dog.", None),
            ("The answer is A or B.", None),
            ("The answer is (A) and (B).", None),
            ("A, B", None),
            ("A/B", None),
            ("ABCD", None),
            ("all of them", None),
            ("E. whale", None),
            ("I", None),
            ("I hear something.", None),
            ("Therefore, a dog barking.", 2),
            ("D", 3),
        ),
    ),
    Row(
        ANIMALS,
        (
            ("<think>I write <answer> later. It is rain.</think><answer>dog</answer>", 0),
            ("<think>dog <answer>cat</answer></think>", 1),
            ("<think>perhaps <answer>cat</answer>? no</think><answer>dog</answer>", 0),
            ("perhaps <answer>cat</answer>? no</think>dog", 0),
            ("<answer>dog</answer><think>or a cat?</think>", 0),
            ("<think>cat</think><think>rain</think>dog", 0),
            ("<thinking>cat</thinking>dog", 0),
            ("<think>First I hear a dog", None),
            ("<think>The answer is B. But wait", None),
            ("<think>a cat</think>", None),
            ("<think>a cat</think><think>dog", None),
            ("It is a dog. <think>or a cat", 0),
            ("<think>cat</think><answer></answer> dog", None),
        ),
    ),
    Row(
        SEQUENCE,
        (
            ("Yes, it is the third sound.", 1),
            ("No", 2),
            ("Yes", None),
            ("The answer is Yes, it is the 2nd sound", 0),
            ("(C) No, it is not present.", 2),
            ("it is the second sound", 0),
        ),
    ),
    Row(
        MOODS,
        (
            ("happy", 0),
            ("The mood is sad.", 1),
            ("The speaker is not angry but calm.", 3),
            ("Calm, not angry", 3),
            ("B", 1),
        ),
    ),
)

COUNTING = rows(
    Row(
        NUMBERS,
        (
            ("100", 11),
            ("over ten", 11),
            ("more than 10", 11),
            ("More than ten.", 11),
            (">10", 11),
            ("at least eleven", 11),
            ("11 or more", 11),
            ("no one is playing", 0),
            ("eleven", 11),
            ("12", 11),
            ("a dozen", 11),
            ("half a dozen", 6),
            ("twenty-five", 11),
            ("a hundred", 11),
            ("none", 0),
            ("There are none.", 0),
            ("no instruments", 0),
            ("twice", 2),
            ("once", 1),
            ("a pair", 2),
            ("ten", 10),
            ("10", 10),
            ("There are 3 instruments.", 3),
            ("two violins", 2),
            ("There are two or three", None),
            ("about four", 4),
            ("In the 10 second clip two instruments play.", 2),
            ("zero", 0),
            ("1", 1),
            ("(C)", 2),
            ("(L) more than ten", 11),
            ("2.5", None),
            ("-2", None),
            ("more than three", None),
            ("at least two", None),
            ("many", None),
            ("I'm sorry, but no audio was provided.", None),
        ),
    ),
    Row(
        FOUR,
        (
            ("two", 3),
            ("2", 3),
            ("B", 1),
            ("twelve", None),
            ("There are two speakers.", 3),
            ("No one", None),
            ("five, not six", 1),
        ),
    ),
    Row(
        YEARS,
        (
            ("1929", 0),
            ("1908", 1),
            ("one thousand nine hundred fifty three", 2),
            ("The film was released in 1945.", 3),
            ("nineteen", None),
        ),
    ),
    Row(
        WHICH_SOUNDS,
        (
            ("at the same time", 3),
            ("both", 3),
            ("simultaneous", 3),
            ("simultaneously", 3),
            ("center", 1),
            ("on the left side", 0),
            ("left and right", None),
        ),
    ),
    Row(
        SCENERY,
        (
            ("outside", 1),
            ("inside", 0),
            ("indoors", 0),
            ("Outdoors.", 1),
            ("It was recorded indoors", 0),
            ("door", None),
        ),
    ),
)


@pytest.mark.parametrize(
    ("said", "options", "choice"),
    [*ARTICLES, *NOTES_AND_SIGNS, *DENIALS, *MARKUP, *OTHER_SCRIPTS, *REFUSALS, *WHOLE_WORDS, *FORMS, *COUNTING],
)
def test_what_a_careful_reader_reads(said: str, options: tuple[str, ...], choice: int | None) -> None:
    assert match_option(said, options) == choice
