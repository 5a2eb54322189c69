"""What the commands of ``python -m corpus`` do, see ``corpus/__main__.py``; each imports what it alone needs."""

import argparse


def gather(options: argparse.Namespace) -> None:
    """Write the questions that the next stage is to ask about.

    Raises:
        UserError: A file is missing or malformed, or no question is left.
    """
    from corpus.gathering import gather

    gather(options.root, options.runs, options.clips or ())


def finish(options: argparse.Namespace) -> None:
    """Write the corpus with its datasheet.

    Raises:
        UserError: A file is missing or malformed, a stage has not run, or no question is left.
    """
    from corpus.gathering import finish

    finish(options.root, options.runs, options.clips or (), options.held_out, options.audit)
