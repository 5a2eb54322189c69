"""The folder through which weights travel to the servers, and what becomes of it when a run ends or is killed."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from inference.weight_transfer.weight_sync import WeightSyncError, read_specs
from records.hub_files import HubTensor, write_hub_files
from runtime.file_lock import LockTimeout, locked, try_flock

log = logging.getLogger("lightning.pytorch.rollout")

PREFIX = "sightsound-r1-weights-"
SHARD_BYTES = 2 * 1024**3
"""Largest size of the files in which weights are written."""

_WATCHER = 'cat > /dev/null; rm -rf -- "$1"'  # its input ends with this process, however that ends


class WeightDirectory:
    """Where versions of the weights are written; only the last one is kept."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Use a directory that another rank has made.

        Args:
            root: The directory.
        """
        self.root = Path(root)
        self._owner: IO[str] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        leave = weakref.WeakMethod(self._leave)
        os.register_at_fork(after_in_child=lambda: (leave() or (lambda: None))())

    def _leave(self) -> None:
        """Close in a worker what says that the run lives."""
        with contextlib.suppress(OSError):
            if self._owner is not None:
                self._owner.close()
            if self._watcher is not None and self._watcher.stdin is not None:
                self._watcher.stdin.close()

    @classmethod
    def make(cls, parent: Path) -> "WeightDirectory":
        """Make a directory of this process; those that killed processes have left in ``parent`` are deleted.

        It is deleted with :meth:`remove`, by a small process when this one is killed, and otherwise by the next run.

        Args:
            parent: Where.

        Raises:
            OSError: It cannot be written.
        """
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
        try:
            new.chmod(0o755)  # the server may run as another user
            owner = open(new / "owner", "w", encoding="utf-8")  # noqa: SIM115
            owner.write(json.dumps(_this_process()))
            owner.flush()
            try_flock(owner)
            root = new.with_name(new.name.removeprefix("."))
            new.rename(root)  # complete with its owner, so that no other run takes it for abandoned
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        directory = cls(root)
        directory._owner = owner
        with contextlib.suppress(OSError):  # without it the next run deletes what a killed one has left
            directory._watcher = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, "sh", str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return directory

    @property
    def probe(self) -> Path:
        """A folder with a file of weights that holds none: a server that can read it can read what is beside it."""
        return self.root / "probe"

    def write_probe(self) -> None:
        """Write :attr:`probe`.

        Raises:
            OSError: There is no room.
        """
        self.probe.mkdir(exist_ok=True)
        save_file({}, self.probe / "model.safetensors", metadata={"format": "pt"})

    def path(self, version: str) -> Path:
        """Return the directory of a version."""
        return self.root / version.replace(":", "-")

    def write(self, tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, HubTensor], version: str) -> Path:
        """Write a version of the weights in place of the one before, which is deleted first.

        Args:
            tensors: Name on the Hub and value, one after the other.
            shapes: What they will be.
            version: Name of this version.

        Returns:
            The directory, complete.

        Raises:
            WeightSyncError: There is no room, or something else was written than was announced.
        """
        size = sum(tensor.nbytes for tensor in shapes.values())
        target = self.path(version)
        partial = self.root / f".{target.name}.partial"
        try:
            for other in self.root.iterdir():
                if other.is_dir() and other != self.probe:
                    shutil.rmtree(other, ignore_errors=True)
            partial.mkdir()
            write_hub_files(tensors, shapes, partial, SHARD_BYTES)
            written = {name: spec.shape for name, spec in read_specs(partial).items()}
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise WeightSyncError(
                f"the weights ({gigabytes(size)}) could not be written to {self.root} ({_reason(error)}): make room "
                "there or choose another folder with sync_dir"
            ) from None
        if written != {name: tensor.shape for name, tensor in shapes.items()}:
            raise WeightSyncError(f"the weights in {partial} are not those that were written: is its disk full?")
        partial.rename(target)
        return target

    @contextlib.contextmanager
    def lock(self, server: str, seconds: float = 600.0) -> Iterator[None]:
        """Hold off other processes that want to change one server's weights.

        Args:
            server: Its address.
            seconds: How long to wait for them.

        Raises:
            WeightSyncError: Another process does not end its work, or the directory cannot be reached.
        """
        with _locked(self.root / f"{_digest(server)}.lock", server, seconds):
            yield

    def remove(self) -> None:
        """Delete everything, if this process has made it."""
        if self._owner is None:
            return
        shutil.rmtree(self.root, ignore_errors=True)
        self._owner.close()
        self._owner = None
        if self._watcher is not None:
            assert self._watcher.stdin is not None
            with contextlib.suppress(OSError):
                self._watcher.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watcher.wait(5)


class CheckpointFolder:
    """Weights that servers load from where they are."""

    probe = None

    def __init__(self, weights: str) -> None:
        """Describe it.

        Args:
            weights: A directory, or a name on the Hub, which each server looks up by itself.
        """
        self.root = Path(weights).absolute() if Path(weights).is_dir() else Path(weights)

    def path(self, version: str) -> Path:
        """Return where all versions are."""
        return self.root

    @contextlib.contextmanager
    def lock(self, server: str, seconds: float = 600.0) -> Iterator[None]:
        """Hold off other processes of this machine; see :meth:`WeightDirectory.lock`."""
        with _locked(
            Path(tempfile.gettempdir()) / f"sightsound-r1-{os.getuid()}-{_digest(server)}.lock", server, seconds
        ):
            yield


@contextlib.contextmanager
def _locked(file: Path, server: str, seconds: float) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(file, seconds))
        except LockTimeout:
            raise WeightSyncError(
                f"another process of this run has been pushing weights to {server} for {seconds:.0f} s"
            ) from None
        except OSError as error:
            raise WeightSyncError(
                f"{file.parent}, through which weights travel, cannot be used here ({_reason(error)}): set sync_dir to "
                "a folder that all ranks and servers reach under the same path"
            ) from None
        yield


def _digest(server: str) -> str:
    return hashlib.sha256(server.encode()).hexdigest()[:16]


def gigabytes(size: float) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def room(directory: Path) -> float:
    """Return how many bytes fit into a directory; into one in main memory, no more than the machine has left."""
    free = float(shutil.disk_usage(directory).free)
    if directory == SHARED_MEMORY:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
            free = min(free, 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")))
    return free


SHARED_MEMORY = Path("/dev/shm")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _this_process() -> dict[str, str | int]:
    """Return what names a process among those of all machines and containers."""
    return {"pid": os.getpid(), "begun": _begun(os.getpid()) or "", "space": _space()}


def _space() -> str:
    """Return a name of those processes that see each other: of the machine since its start, and the container."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _begun(pid: int) -> str | None:
    """Return when a process began, or None when there is none."""
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = stat.rpartition(")")[2].split()
        return fields[18] if state not in "ZX" else None
    return None


def _remove_abandoned(parent: Path) -> None:
    """Delete directories whose owner lives no more."""
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError), open(directory / "owner", "r+", encoding="utf-8") as owner:
            ours = try_flock(owner)
            if ours is False:
                continue
            if ours is None:  # no locks here: ask after the process
                named = json.loads(owner.read())
                if not named["space"] or named["space"] != _space():
                    log.warning(f"{directory} may be left from a killed run elsewhere: remove it if no run uses it")
                    continue
                if _begun(named["pid"]) == named["begun"]:
                    continue
            shutil.rmtree(directory, ignore_errors=True)
