"""Which weights of a student are trained, in words: said once at the start of a stage."""

from collections import Counter

from lightning_modules.models.student import Student


def trained_parts(student: Student) -> dict[str, int]:
    """Count the trained weights of each part; adapters count for themselves.

    Args:
        student: The student, sharded or not.

    Returns:
        Numbers by part: those of the architecture's audio modules (``audio_tower``, ``multi_modal_projector``) and
        ``language_model``, zero where a part is frozen; then ``adapters of <part>`` where there are any.
    """
    part_of = {id(p): name for name, part in student.audio_modules.items() for p in part.parameters()}
    counts: Counter[str] = Counter({name: 0 for name in (*student.audio_modules, "language_model")})
    for name, p in student.trainable_parameters():
        part = part_of.get(id(p), "language_model")
        counts[f"adapters of {part}" if ".lora_" in name else part] += p.numel()
    return dict(counts)


def describe_trained_parts(student: Student) -> str:
    """Return one line on which weights are trained.

    Args:
        student: The student.
    """
    whole = sum(p.numel() for p in student.parameters())
    parts = trained_parts(student)
    words = ", ".join(
        f"{name.replace('_', ' ')} {f'{number:,}' if number else 'frozen'}" for name, number in parts.items()
    )
    return f"Trained weights: {words}; {sum(parts.values()):,} of {whole:,}"
