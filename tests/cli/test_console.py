"""What a stage shows: its own lines, warnings of all, and what libraries say of themselves only with --verbose."""

import logging
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_info

from cli.console import VERBOSE, is_verbose, metrics_line, quieten, take_verbose


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VERBOSE, raising=False)
    found = [
        h for name in ("lightning", "lightning.pytorch", "lightning.fabric") for h in logging.getLogger(name).handlers
    ]
    before = [list(h.filters) for h in found]
    for handler in found:
        handler.filters = []
    with warnings.catch_warnings():
        yield found
    for handler, filters in zip(found, before, strict=True):
        handler.filters = filters


def _shown(handlers: list[logging.Handler], level: int, path: str) -> bool:
    record = logging.LogRecord("lightning.pytorch", level, path, 1, "words", None, None)
    return all(handler.filter(record) for handler in handlers)


def test_libraries_are_silent_below_warnings_and_this_project_is_not(handlers: list[logging.Handler]):
    library = "/x/.venv/lib/python3.11/site-packages/lightning/pytorch/trainer/setup.py"
    assert handlers and _shown(handlers, logging.INFO, library)
    quieten()
    assert not _shown(handlers, logging.INFO, library)
    assert _shown(handlers, logging.WARNING, library)
    assert _shown(handlers, logging.INFO, "/x/datamodules/traces.py")


def test_lines_of_this_project_bear_its_own_file(handlers: list[logging.Handler]):
    """Lightning's rank_zero_info logs in the caller's name; if that changes, our lines would vanish."""
    quieten()
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    spy = logging.Handler()
    spy.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(spy)
    try:
        rank_zero_info("ours")
    finally:
        logger.removeHandler(spy)
    assert [record.pathname for record in records] == [__file__]


def test_verbose_shows_everything(handlers: list[logging.Handler], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VERBOSE, "1")
    quieten()
    assert _shown(handlers, logging.INFO, "/x/site-packages/lightning/pytorch/trainer/setup.py")


@pytest.mark.parametrize(
    ("args", "left", "verbose"),
    [
        (["fit", "--verbose", "--config", "sft.yaml"], ["fit", "--config", "sft.yaml"], True),
        (["--verbose", "--debug", "fit"], ["--debug", "fit"], True),
        (["test", "--verbose"], ["test"], True),
        (["test", "--verbose", "false"], ["test", "--verbose", "false"], False),  # Trainer.test's own option
        (["fit"], ["fit"], False),
    ],
)
def test_verbose_is_taken_off_the_command_line(
    args: list[str], left: list[str], verbose: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(VERBOSE, raising=False)
    take_verbose(args)
    assert (args, is_verbose()) == (left, verbose)


def test_results_are_one_line():
    metrics = {"test/accuracy": 0.840625, "test/accuracy/Come From": 0.5, "test/questions": 320.0, "val/accuracy": 0.1}
    assert metrics_line("test", metrics) == "test: accuracy 84.1% (Come From 50.0%), questions 320"
