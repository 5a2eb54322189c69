"""What the commands of ``python -m corpus`` do, see ``corpus/__main__.py``; each imports what it alone needs."""

import argparse
import json
import sys
from dataclasses import fields

from runtime.errors import UserError, refuse_below


def clips(options: argparse.Namespace) -> None:
    """Make clips of videos.

    Raises:
        UserError: Options do not fit, or something as a whole cannot be read or written.
    """
    from corpus.clips.inputs import Inputs
    from corpus.clips.settings import ClipSettings
    from corpus.clips.stage import REPORT, ClipStage

    refuse_below(1, "--", processes=options.processes, ranks=options.ranks)
    if not 0 <= options.rank < options.ranks:
        raise UserError(f"--rank is {options.rank}: of {options.ranks} ranks it is one from 0 to {options.ranks - 1}")
    stage = ClipStage(
        Inputs(options.root, options.manifest, options.shards, options.follow_links),
        ClipSettings(**{field.name: getattr(options, field.name) for field in fields(ClipSettings)}),
        options.output,
        tuple(options.against),
        options.data,
        options.rank,
        options.ranks,
    )
    if not stage.run(options.processes, say):
        print(f"{options.output}: this rank's share is done; the last rank to end writes {REPORT}")
        return
    report = json.loads((options.output / REPORT).read_text(encoding="utf-8"))
    counted = ", ".join(f"{count} {reason}" for reason, count in report["left_out"].items())
    print(f"{options.output}: {report['clips']} clips of {report['inputs']} inputs; left out: {counted or 'none'}")
    for one in report["benchmarks"]:
        unheard = len(one["not_compared_by_sound"])
        print(
            f"  {one['benchmark']}: {one['clips']} clips, {one['kept_out_by_sound']} clips of the input sound like one "
            "and are kept out" + (f"; {unheard} have no sound to be compared by" if unheard else "")
        )


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


def browse(options: argparse.Namespace) -> None:
    """Show a corpus until it is interrupted.

    Raises:
        UserError: A file is missing or unusable, or the port is taken.
    """
    from corpus.browsing.place import place_of
    from corpus.browsing.serve import serve

    place = place_of(
        options.folder,
        options.split,
        options.traces,
        options.verdicts,
        options.labels,
        options.clips,
        options.clips_root,
    )
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


def say(line: str) -> None:
    """Say how far a command is."""
    print(line, file=sys.stderr, flush=True)
