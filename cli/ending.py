"""Ending a stage by a signal: in order, soon, and with the status that shells expect."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from callbacks.fellow_ranks import exit_status
from cli.ranks import is_launched
from cli.swallowed_ending import raised_again
from runtime.all_ranks import is_rank_zero, largest_of_ranks
from runtime.ending_signals import ENDING, say_at_once, status_after
from runtime.lightning_internals import leave_sigterm_alone, set_received_sigterm
from runtime.second_signal import ended_by_second_signal, heard

_AFTER_BATCH = (signal.SIGTERM, signal.SIGUSR1)
"""Signals at which training ends after the batch under way; where both came, the larger number, SIGTERM, holds."""

_owner = 0
_ended: "Ended | None" = None


class Ended(SystemExit):
    """A signal ended the stage, with the exit status that says so."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let ending signals raise Ended inside the block: callbacks write what they have, without a traceback.

    A signal that is ignored, as ``nohup`` has it, stays so.

    Raises:
        SystemExit: With status 143, 130 or 75 where Lightning has turned the signal into an exception of its own, or
            where ending in the middle of something has brought about another one.
    """
    global _owner, _ended
    if not _in_main_thread():
        yield
        return
    _owner, _ended = os.getpid(), None
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _end)
        with ended_by_second_signal(), raised_again((Ended, KeyboardInterrupt), of=_owner):
            yield
    except SIGTERMException as error:
        raise Ended(exit_status(error)) from None
    except KeyboardInterrupt as error:
        raise Ended(exit_status(error)) from None
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
    the middle of whatever the rank is doing. Training ends after the batch under way when SIGTERM or SIGUSR1 comes to
    any rank, on all ranks and with a ``last.ckpt`` of that batch, and at once at a second SIGTERM; everything else ends
    at once. SIGUSR1 waits for a validation too: whoever sends it leaves time.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._wanted = 0
        self._agreed = 0

    def _install(self, trainer: Trainer, after_batch: tuple[signal.Signals, ...] = ()) -> None:
        if not _owner or not _in_main_thread():
            return
        self._trainer = trainer
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end_after_batch if number in after_batch else self._end)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the collective operation out of Lightning's handler, which holds until the first loop begins."""
        if _owner:
            leave_sigterm_alone(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer, _AFTER_BATCH)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._agreed = self._agreed, largest_of_ranks(trainer, self._wanted)  # writing takes all ranks
        if self._agreed and not self._wanted and not before and trainer.is_global_zero:
            name = signal.Signals(self._agreed).name
            say_at_once(f"train.py: {name} has come to another rank: training ends after this batch\n")
        set_received_sigterm(trainer, bool(self._agreed))

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer, (signal.SIGUSR1,) if trainer.state.fn == TrainerFn.FITTING else ())

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._install(trainer, _AFTER_BATCH)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the status into Lightning's exception, which knows of SIGTERM only."""
        if isinstance(exception, SIGTERMException):
            exception.code = self.status_of(exception)

    def status_of(self, error: BaseException) -> int:
        """Return the status with which this process ends because of an exception.

        Args:
            error: What was raised.
        """
        if isinstance(error, SIGTERMException) and self._agreed:
            return status_after(self._agreed)
        return exit_status(error)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._pass_on(number)
        _end(number, frame)

    def _end_after_batch(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != _owner:
            return  # a DataLoader's worker; it ends with this process
        heard()
        if self._wanted == number == signal.SIGTERM:
            self._end(number, frame)
        if number <= self._wanted:
            return
        self._wanted = number  # a scheduler sends SIGUSR1 and SIGTERM one after the other, and means the same by both
        # the other ranks learn it after the batch; a signal to the process group has reached them already
        name = signal.Signals(number).name
        say_at_once(f"train.py: {name}: training ends after this batch (a second SIGTERM ends it at once)\n")

    def _pass_on(self, number: int) -> None:
        """Tell the ranks that this one has started."""
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if launcher is not None and os.getpid() == _owner:
            launcher.kill(number)


def _end(number: int, frame: FrameType | None) -> None:
    global _ended
    if os.getpid() != _owner:  # a DataLoader's worker, whose end must not look like a fault of its own
        if number == signal.SIGUSR1:
            return  # the batch under way still needs it
        raise KeyboardInterrupt
    heard()
    signal.signal(signal.SIGCHLD, lambda *_: None)  # workers that got the signal too: their end is no error any more
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # a second one does not wait for anything, but a launched rank may get the same one twice: from the first rank too
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_launched() else signal.SIG_DFL)
    if is_rank_zero():  # which hears of it where another rank alone has got it
        say_at_once(f"train.py: ended by {signal.Signals(number).name}; what was written is kept\n")
    _ended = Ended(status_after(number))
    raise _ended


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()  # only there can signals be handled
