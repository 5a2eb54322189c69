"""What a stage of the teacher or the checker yielded: on the terminal, as JSON and as a plot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from callbacks.tracking.wandb_logging import wandb_loggers
from callbacks.writers.record_writer import MODULES, RecordWriter, still_missing
from callbacks.writers.yields import Spending, Yield, spending, yields
from datamodules.audio_qa import AudioQADataModule
from datamodules.trace_clips import TraceClipsDataModule
from lightning_modules.doors import RecordStage, fitting
from records.records import Trace, Verdict
from records.request_records import RequestError, Usage
from runtime.errors import UserError

COLUMNS: tuple[tuple[str, str], ...] = (
    ("questions", "questions"),
    ("complete", "with traces"),
    ("traces", "traces"),
    ("unreadable", "unreadable"),
    ("thoughtless", "no thought"),
    ("unanimous", "unanimous"),
    ("accepted", "accepted"),
    ("rejected", "rejected"),
)
_ONLY_IF_ANY = ("unreadable", "thoughtless")


class YieldReport(Callback):
    """Reports at the end of ``predict`` what is on disk now, earlier runs included.

    Questions, traces, those whose answer cannot be read or that have no thought, unanimous questions, accepted and
    rejected traces by question type, agreement with the right answers where there are any, tokens, money, wall time and
    errors by kind. Written to ``<directory>/report.json`` and
    ``report.png`` of the RecordWriter, which must come before it in ``trainer.callbacks``.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a stage of which nothing could be reported at the end."""
        if stage == "predict":
            self._needed(trainer)
            fitting(pl_module, RecordStage, self, MODULES)

    def _needed(self, trainer: Trainer) -> tuple[RecordWriter, AudioQADataModule]:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        writer = next((one for one in callbacks if isinstance(one, RecordWriter)), None)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if writer is None or not isinstance(datamodule, AudioQADataModule):
            raise UserError("YieldReport needs a RecordWriter among trainer.callbacks and a DataModule of questions")
        return writer, datamodule

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("records written")
        if not trainer.is_global_zero:
            return
        writer, datamodule = self._needed(trainer)
        questions = datamodule.questions("predict")
        verdicts: list[Verdict] | None = None
        if isinstance(datamodule, TraceClipsDataModule):
            traces = [trace for some in datamodule.traces.values() for trace in some]
            verdicts = writer.read(Verdict)
        else:
            traces = writer.read(Trace)
        done = {(r.question_id, r.sample) for r in (verdicts if verdicts is not None else traces)}
        errors = still_missing(writer.read(RequestError), done).values()
        table = yields(questions, traces, verdicts, fitting(pl_module, RecordStage, self, MODULES).samples)
        spent = spending(writer.read(Usage), errors)
        write_report(writer.directory, table, spent)
        rank_zero_info(f"the report was written to {writer.directory / 'report.json'} and report.png")
        for logger in wandb_loggers(trainer):
            logger.log_metrics({f"yield/{name}": value for name, value in spent.as_dict().items() if name != "errors"})


def write_report(directory: Path, table: Sequence[Yield], spent: Spending) -> None:
    """Print the report and write it beside the records.

    Args:
        directory: Gets ``report.json`` and ``report.png``.
        table: One row of each question type, the total last.
        spent: What it took.

    Raises:
        UserError: It cannot be written, as on a full disk; the records are there.
    """
    Console(width=140).print(terminal_table(table))
    print(spent.sentence(), flush=True)
    content = {"types": [row.as_dict() for row in table], **spent.as_dict()}
    try:
        (directory / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        plot(directory / "report.png", table)
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {directory} ({error.strerror or error}); the records are complete: make "
            "room and run the same command again, which asks for nothing that is there"
        ) from error


def terminal_table(table: Sequence[Yield]) -> Table:
    """Return the report as a table for the terminal."""
    shown = Table(title="yield by question type")
    shown.add_column("type")
    total = table[-1].as_dict()
    columns = [(n, title) for n, title in COLUMNS if total[n] is not None and (total[n] or n not in _ONLY_IF_ANY)]
    for _, title in columns:
        shown.add_column(title, justify="right")
    shares = ("traces right", "unanimous right", "accepted right")
    for title in shares:
        shown.add_column(title, justify="right")
    for number, row in enumerate(table):
        values = row.as_dict()
        cells = [str(values[name]) for name, _ in columns]
        cells += [_percent(values[title.replace(" ", "_")]) for title in shares]
        shown.add_row(row.type, *cells, end_section=number == len(table) - 2)
    return shown


def plot(path: Path, table: Sequence[Yield]) -> None:
    """Draw how many traces of each question type remain after each filter.

    Args:
        path: The PNG file.
        table: One row of each question type, the total last.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(table[:-1]) or list(table)
    figure = Figure(figsize=(max(6.0, 1.1 * len(rows) + 2), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars: list[tuple[str, list[int]]] = [
        ("traces", [row.traces for row in rows]),
        ("of unanimous questions", [row.unanimous_traces for row in rows]),
    ]
    if table[-1].accepted is not None:
        bars.append(("accepted", [row.accepted or 0 for row in rows]))
        bars.append(("unanimous and accepted", [row.unanimous_accepted or 0 for row in rows]))
    width = 0.8 / len(bars)
    for place, (label, heights) in enumerate(bars):
        axes.bar([i + (place - (len(bars) - 1) / 2) * width for i in range(len(rows))], heights, width, label=label)
    axes.set_xticks(range(len(rows)), [row.type for row in rows], rotation=30, ha="right")
    axes.set_ylabel("traces")
    axes.legend()
    figure.savefig(path, dpi=110)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"
