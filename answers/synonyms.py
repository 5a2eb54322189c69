"""Other words for options that are one word of a closed set, such as those of MUSIC-AVQA."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "simultaneously": ("simultaneous", "at the same time", "at once", "both", "together", "same time", "concurrently"),
    "middle": ("center", "centre", "in the middle", "central"),
    "left": ("left side", "left hand side"),
    "right": ("right side", "right hand side"),
    "indoor": ("indoors", "inside"),
    "outdoor": ("outdoors", "outside", "open air"),
    "drum": ("drums", "drum set", "drum kit"),
    "congas": ("conga", "conga drum", "conga drums"),
    "bagpipe": ("bagpipes",),
    "saxophone": ("sax",),
    "electric bass": ("bass guitar", "electric bass guitar"),
    "yes": ("yeah", "yep", "yup"),
    "no": ("nope",),
}
"""By the option's words as :func:`answers.option_words.words_of` gives them. What is an option itself is not
used as another word for a second one."""

COUNTS: dict[str, tuple[str, ...]] = {
    "0": ("none", "nobody", "no instrument", "no instruments", "no musical instruments", "no person",
          "no people", "no speakers", "no times"),
    "1": ("once", "single", "solo", "a single one"),
    "2": ("twice", "pair", "couple", "both", "duo", "duet"),
    "3": ("thrice", "trio"),
    "4": ("quartet",),
    "5": ("quintet",),
}  # fmt: skip
"""Other words for numbers, where all options are numbers."""
