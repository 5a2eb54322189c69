"""What the commands of ``python -m corpus`` do, see ``corpus/__main__.py``; each imports what it alone needs."""

import argparse


def browse(options: argparse.Namespace) -> None:
    """Show a corpus until it is interrupted.

    Raises:
        UserError: A file is missing or unusable, or the port is taken.
    """
    from corpus.browsing.place import place_of
    from corpus.browsing.serve import serve

    place = place_of(options.folder, options.split, options.traces, options.verdicts, options.labels)
    serve(place, options.label, options.port)


def agree(options: argparse.Namespace) -> None:
    """Print how far a checker and a person agree.

    Raises:
        UserError: A file is missing or malformed, or both judged no trace in common.
    """
    from corpus.agreement import agreement, agreement_lines, on_same_traces
    from records.record_files import read_records
    from records.records import Verdict

    checker, person = (list(read_records(paths, Verdict)) for paths in (options.verdicts, options.labels))
    print(agreement_lines(agreement(*on_same_traces(checker, person))))
