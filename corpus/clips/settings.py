"""What a clip has to be."""

from dataclasses import dataclass

from runtime.errors import UserError, refuse_below


@dataclass(frozen=True)
class ClipSettings:
    """What becomes a clip.

    Attributes:
        seconds: Length of a clip.
        least_seconds: The rest of a file becomes a clip too where it is at least so long; a file that is shorter is
            left out.
        most_of_a_file: At most so many clips of one file or row, spread evenly over it.
        silence_db: Silence is what has no tenth of a second above this level (RMS, in dB below full scale).
        quiet_db: Too quiet is what is below this level as a whole.
        clipped_share: Clipped is what has more than this share of its samples at full scale.
        motion: The picture moves where the mean of some cell of a 16 x 16 grid changes by so many of 255 grey levels.
    """

    seconds: float = 10.0
    least_seconds: float = 5.0
    most_of_a_file: int = 30
    silence_db: float = -60.0
    quiet_db: float = -45.0
    clipped_share: float = 0.01
    motion: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: A setting is too small, or two do not fit each other.
        """
        refuse_below(1, "--", most_of_a_file=self.most_of_a_file)
        if not 1 <= self.seconds <= 600:
            raise UserError(f"--seconds is {self.seconds:g}: a clip lasts 1 to 600 seconds")
        if not 0.5 <= self.least_seconds <= self.seconds:
            raise UserError(
                f"--least-seconds is {self.least_seconds:g}: give something between 0.5 and {self.seconds:g}, the "
                "length of a clip"
            )
