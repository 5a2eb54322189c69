"""How large the synthetic world and its training are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mini.world.corpus import CorpusConfig


@dataclass(frozen=True)
class StudentConfig:
    """Size of the small student.

    Attributes:
        seed: Seed of the random weights.
        vocabulary: Largest number of tokens.
        mel_bins: Mel bins of the feature extractor.
        audio_width: Width of the audio tower.
        audio_layers: Layers of the audio tower.
        width: Width of the language model.
        layers: Layers of the language model.
        heads: Attention heads, of the tower and of the language model.
        spread: Standard deviation of the language model's random weights; the usual 0.02 is for much wider layers and
            learns three times slower here.
        audio_spread: Standard deviation of the audio tower's random weights.
    """

    seed: int = 0
    vocabulary: int = 768
    mel_bins: int = 64
    audio_width: int = 128
    audio_layers: int = 1
    width: int = 128
    layers: int = 3
    heads: int = 4
    spread: float = 0.1
    audio_spread: float = 0.16


@dataclass(frozen=True)
class Scale:
    """Sizes of one run of the pipeline.

    Attributes:
        corpus: Size of the corpus.
        student: Size of the student.
        options: Further options of ``train.py`` by stage, ``sft`` for all three SFT rows.
        minutes: How long it takes on two cores.
    """

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    minutes: str = "7 to 9"


SCALES = {
    "standard": Scale(),
    # Learns to speak and little more: for finding out in a minute whether everything runs, also after an interruption.
    # The last callback of both stages is the checkpoint.
    "tiny": Scale(
        CorpusConfig(train_clips=40, val_clips=8, test_clips=6),
        StudentConfig(audio_width=64, width=64, layers=2, heads=2),
        {
            "sft": (
                "--trainer.max_steps=80",
                "--trainer.val_check_interval=40",
                "--trainer.callbacks.init_args.every_n_batches=10",
                "--model.init_args.lr=4e-3",
                "--model.init_args.warmup_steps=5",
            ),
            "grpo": (
                "--trainer.max_steps=6",
                "--trainer.val_check_interval=3",
                "--trainer.callbacks.init_args.every_n_batches=2",
                "--data.init_args.batch_size=4",
                "--model.init_args.warmup_steps=1",
            ),
        },
        minutes="2 to 3",
    ),
}
