"""How large the embedded world and its training are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mini.corpus import CorpusConfig
from mini.student import StudentConfig


@dataclass(frozen=True)
class Scale:
    """Sizes of one run of the pipeline.

    Attributes:
        corpus: Size of the corpus.
        student: Size of the student.
        options: Further options of ``train.py`` by stage, ``sft`` for all three SFT rows.
    """

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SCALES = {
    "standard": Scale(),
    # Learns next to nothing: for finding out in a minute whether everything runs, and goes on after an interruption
    "tiny": Scale(
        CorpusConfig(train_clips=40, val_clips=8, test_clips=6),
        StudentConfig(audio_width=64, width=64, layers=2, heads=2),
        {
            "sft": (
                "--trainer.max_steps=24",
                "--trainer.val_check_interval=12",
                "--data.init_args.batch_size=8",
                "--model.init_args.warmup_steps=2",
            ),
            "grpo": (
                "--trainer.max_steps=6",
                "--trainer.val_check_interval=3",
                "--data.init_args.batch_size=4",
                "--model.init_args.warmup_steps=1",
            ),
        },
    ),
}
