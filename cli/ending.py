"""Ending a stage by a signal: in order, soon, and with the status that shells expect."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from cli.ranks import is_launched
from cli.swallowed_ending import raised_again
from runtime.all_ranks import is_rank_zero

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_owner = 0
_ended: "Ended | None" = None


class Ended(SystemExit):
    """A signal ended the stage; the status is 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.status = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, SIGINT and SIGHUP raise Ended inside the block: callbacks write what they have, without a traceback.

    A signal that is ignored, as ``nohup`` has it, stays so.

    Raises:
        SystemExit: With status 143 or 130 where Lightning has turned the signal into an exception of its own, or where
            ending in the middle of something has brought about another one.
    """
    global _owner, _ended
    if not _in_main_thread():
        yield
        return
    _owner, _ended = os.getpid(), None
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _end)
        with raised_again(lambda error: isinstance(error, (Ended, KeyboardInterrupt)), lambda: os.getpid() != _owner):
            yield
    except SIGTERMException:
        raise Ended(signal.SIGTERM) from None
    except KeyboardInterrupt:
        raise Ended(signal.SIGINT) from None
    except BaseException as error:
        if _ended is None or error is _ended or os.getpid() != _owner:
            raise
        raise _ended from None
    finally:
        _owner = 0
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class EndBySignal(Callback):
    """Keeps the handlers of :func:`ended_by_signals` where Lightning puts its own.

    Lightning's handler only sets a mark that its prediction loop never looks at, and starts a collective operation in
    the middle of whatever the rank is doing. Training ends after the batch under way when SIGTERM comes to any rank, on
    all ranks and with a ``last.ckpt`` of that batch, and at once at a second one; everything else ends at once.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._wanted = False
        self._told = False

    def _install(self, trainer: Trainer, on_sigterm: Any) -> None:
        if not _owner or not _in_main_thread():
            return
        self._trainer = trainer
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, on_sigterm if number == signal.SIGTERM else self._end)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the collective operation out of Lightning's handler, which holds until the first loop begins."""
        if _owner:
            trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer, self._end_after_batch)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        agreed = trainer.strategy.reduce_boolean_decision(self._wanted, all=False)  # writing takes all ranks
        if agreed and not self._wanted and not self._told and trainer.is_global_zero:
            self._told = True
            _say("train.py: SIGTERM has come to another rank: training ends after this batch\n")
        trainer._signal_connector.received_sigterm = agreed

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer, self._end)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._install(trainer, self._end_after_batch)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer, self._end)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._pass_on(number)
        _end(number, frame)

    def _end_after_batch(self, number: int, frame: FrameType | None) -> None:
        if self._wanted:
            self._end(number, frame)
        self._wanted = True
        # the other ranks learn it after the batch; a signal to the process group has reached them already
        _say("train.py: SIGTERM: training ends after this batch (a second one ends it at once)\n")

    def _pass_on(self, number: int) -> None:
        """Tell the ranks that this one has started."""
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if launcher is not None and os.getpid() == _owner:
            launcher.kill(number)


def _end(number: int, frame: FrameType | None) -> None:
    global _ended
    if os.getpid() != _owner:  # a DataLoader's worker, whose end must not look like a fault of its own
        raise KeyboardInterrupt
    signal.signal(signal.SIGCHLD, lambda *_: None)  # workers that got the signal too: their end is no error any more
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # a second one does not wait for anything, but a launched rank may get the same one twice: from the first rank too
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_launched() else signal.SIG_DFL)
    if is_rank_zero():  # which hears of it where another rank alone has got it
        _say(f"train.py: ended by {signal.Signals(number).name}; what was written is kept\n")
    _ended = Ended(number)
    raise _ended


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # not print: the signal may have come in the middle of one
        os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, sentence.encode())


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()  # only there can signals be handled
