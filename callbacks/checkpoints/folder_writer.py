"""Writes checkpoints of many files, each rank its own part, while the run waits or while it goes on."""

import contextlib
import io
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, distributed
from torch.cuda._pin_memory_utils import pin_memory
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_modules.eight_bit_moments import plain_values
from lightning_modules.models.checkpoints.sharded_checkpoint import PLAIN_VALUES, CheckpointError
from runtime.whole_folder import partial_of, recover_folder, remove_path, replace_folder

COPY_AHEAD = 64 * 2**20
"""Bytes that are brought from a device ahead of their being written."""

PINNED_FROM = 2**20
"""Bytes of a tensor whose copy is pinned. PyTorch's own allocator of pinned memory takes up to twice what is needed."""


class FolderWriter:
    """Writes one checkpoint after the other; all ranks call each method together.

    A checkpoint is written beside its place and takes it, in one step, when all ranks have written theirs to the disk.
    In the background a thread writes a copy in main memory, of as many bytes as this rank's part has, and the run goes
    on; the copy's memory is kept for the next one where it is pinned for a GPU. The ranks agree over a group of their
    own, so that nothing of it meets the collectives of the run.
    """

    def __init__(self, device: torch.device, timeout: timedelta) -> None:
        """Begin with nothing under way.

        Args:
            device: Where this rank's weights are.
            timeout: How long a rank waits for another one.
        """
        self._device = device
        self._timeout = timeout
        self._group: Any = None
        self._last: Future[None] | None = None
        self._thread = threading.Thread()
        self._copies: dict[str, Tensor] = {}

    def write(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], target: Path, background: bool) -> None:
        """Write a checkpoint when the one before is there.

        Args:
            tensors: Weights and moments, sharded or not, by their names in the folder.
            plain: What else it holds; rank 0's is written.
            target: Its place.
            background: Return as soon as there is a copy.

        Raises:
            CheckpointError: This one, or the one before, could not be written.
        """
        self.wait()
        if self._group is None:
            self._group = distributed.new_group(backend="gloo", timeout=self._timeout)
        values = io.BytesIO()
        if distributed.get_rank(self._group) == 0:
            torch.save(dict(plain), values)
        if not background:
            self._write(tensors, values, target, COPY_AHEAD)
            return
        copies = self._copy(tensors)
        self._last = Future()
        self._thread = threading.Thread(
            target=self._write_and_tell, args=(self._last, copies, values, target), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for what is being written.

        Args:
            seconds: Not longer than this.

        Raises:
            CheckpointError: It could not be written.
            TimeoutError: It takes longer.
        """
        if self._last is not None:
            try:
                self._last.result(seconds)
            finally:
                if self._last.done():
                    self._thread.join()  # with what is done when it is written
                    self._last = None

    def when_written(self, act: Callable[[], None]) -> None:
        """Do something as soon as what is being written is in its place, now where nothing is; not where it fails.

        Args:
            act: What is done.
        """
        if self._last is None:
            act()
        else:
            self._last.add_done_callback(lambda written: act() if written.exception() is None else None)

    def _write_and_tell(
        self, written: "Future[None]", copies: Mapping[str, Tensor], values: io.BytesIO, target: Path
    ) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # of this thread; otherwise it would be the first one
            self._write(copies, values, target, 0)
        except BaseException as error:
            if isinstance(error, CheckpointError):
                rank_zero_warn(str(error))  # raised where the run comes by again, but said now
            written.set_exception(error)
        else:
            written.set_result(None)
        finally:
            if self._device.type != "cuda":
                self._copies.clear()

    def _write(self, tensors: Mapping[str, Tensor], values: io.BytesIO, target: Path, copy_ahead: int) -> None:
        try:
            save(
                dict(tensors),
                storage_writer=_WholeFolder(target, values, copy_ahead),
                planner=_PlainValues(),
                process_group=self._group,
            )
        except CheckpointException as error:  # on all ranks alike, whichever has failed
            rank, (cause, _) = next(iter(error.failures.items()))
            if distributed.get_rank(self._group) == 0:
                remove_path(partial_of(target))
            size = sum(value.numel() * value.element_size() for value in tensors.values()) / 1e9
            raise CheckpointError(
                f"checkpoint {target} cannot be written (rank {rank}: {_reason(cause)}): all ranks must reach its "
                f"folder, with room for {size:.1f} GB; make room or set the callbacks' dirpath to another disk; what "
                "was written before is as it was, --ckpt_path last goes on from it"
            ) from error

    @torch.no_grad()
    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies in main memory, of a sharded tensor of this rank's part."""
        copies: dict[str, Tensor] = {}
        pinned = self._device.type == "cuda"
        for name, value in tensors.items():
            local = value.to_local() if isinstance(value, DTensor) else value
            kept = self._copies.get(name)
            if kept is None or kept.shape != local.shape or kept.dtype != local.dtype:
                kept = self._copies[name] = torch.empty(local.shape, dtype=local.dtype)
                if pinned and kept.nbytes >= PINNED_FROM:
                    with contextlib.suppress(RuntimeError):  # slower to copy to, if the system allows no more of it
                        pin_memory(kept.data_ptr(), kept.nbytes)
            kept.copy_(plain_values(local), non_blocking=pinned)
            copies[name] = DTensor(kept, value._spec, requires_grad=False) if isinstance(value, DTensor) else kept
        if pinned:
            torch.cuda.current_stream(self._device).synchronize()
        return copies


class _PlainValues(DefaultSavePlanner):
    """Writes moments of 8 bits in float32, one at a time: any number of ranks can read them then."""

    @override
    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        found = super().transform_object(write_item, object)
        return plain_values(found) if isinstance(found, Tensor) else found


class _WholeFolder(FileSystemWriter):
    """Writes beside the place; rank 0 begins with a clean folder and puts it there when all have written."""

    def __init__(self, target: Path, values: io.BytesIO, copy_ahead: int) -> None:
        super().__init__(partial_of(target), per_thread_copy_ahead=copy_ahead)
        self._target = target
        self._values = values

    @override
    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if is_coordinator:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            recover_folder(self._target)
            partial_of(self._target).mkdir()
            with open(partial_of(self._target) / PLAIN_VALUES, "wb") as file:
                file.write(self._values.getbuffer())
                file.flush()
                os.fsync(file.fileno())

    @override
    def storage_meta(self) -> None:
        """Keep the folder's place out of it: it is another one when it is finished."""

    @override
    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan  # the folder is rank 0's to make: a rank that does not see it must fail, not make another one

    @override
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except Exception as error:  # it travels to the other ranks, and its causes do not
            raise OSError(_reason(error)) from error

    @override
    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        replace_folder(partial_of(self._target), self._target)


def _reason(error: BaseException) -> str:
    """Return what the system said where writing failed, also below torch's own complaint about it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.strerror or str(seen)
        seen = seen.__cause__ or seen.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
