"""Starts and stops a vLLM server as the rollout callback needs it; ``python -m inference.vllm_server --help``."""

import argparse
import atexit
import contextlib
import errno
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from inference.server_process import guard
from inference.server_process.environment import check_machine, computes_on_cpu, environment, make_private_folder
from inference.server_process.server_log import ServerLog
from inference.vllm import bearer_token
from inference.vllm.bearer_token import VARIABLE, read_token
from runtime.errors import UserError

PROGRESS_SECONDS = 10.0

WAYS = ("nccl", "ipc", "gloo")
"""Ways in which a server can be sent weights without files: to other GPUs, on the same GPU, to the CPU."""

STOP_SECONDS = guard.COMMAND_SECONDS + guard.REST_SECONDS + 5.0
"""The guard ends the server within this time."""


class ServerStartError(UserError):
    """The server did not start; the message has the end of its log."""


class VLLMServer:
    """A vLLM server for use in a ``with`` statement; it ends with this process, whatever ends that (see ``guard``)."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        port: int | None = None,
        host: str = "127.0.0.1",
        max_num_seqs: int = 64,
        max_model_len: int | None = None,
        dtype: str = "float32",
        kv_cache_gib: int = 1,
        threads: int | None = None,
        weight_transfer: str | None = None,
        log_file: str | os.PathLike[str] | None = None,
        start_seconds: float = 600.0,
        extra: Sequence[str] = (),
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the server; it is started by ``with`` or :meth:`start`.

        Args:
            model: Directory or Hub name of a student's checkpoint.
            port: Port, or None for a free one.
            host: Address to listen on. Rollouts need vLLM's development mode, which lets everybody who reaches the
                server run its administrative routes: other addresses than loopback are accepted only where the
                environment has a secret (``SIGHTSOUND_SERVER_TOKEN``), without which every route but ``/health``
                then answers 401.
            max_num_seqs: Completions that are computed at once; no prompt can have more.
            max_model_len: Longest prompt and completion together; by default the model's limit.
            dtype: Type of the weights and of the computation.
            kv_cache_gib: Memory for keys and values on the CPU, in GiB.
            threads: CPU threads of the CPU build, by default all cores but one: small models wait for each other's
                threads longer than they compute when a core is taken (7 times slower, measured). From some 30 M
                parameters on, and while nothing else computes, all cores are quicker (1.6 times on two).
            weight_transfer: How the trainer sends weights, one of :data:`WAYS`; by default as files, which every server
                can read whatever is said here.
            log_file: Where the server's output goes, by default a temporary file.
            start_seconds: Give up when it is not ready after this time.
            extra: Further arguments for vLLM.
            report: Called with progress lines; by default they are printed to stderr.

        Raises:
            UserError: The host is not a loopback address and there is no secret, or one that cannot be used.
        """
        try:
            self.guarded = read_token() is not None
        except ValueError as error:
            raise UserError(str(error)) from None
        if not self.guarded and not _is_loopback(host):
            raise UserError(
                f"{host} is not a loopback address: the server's development mode lets everybody who reaches it change "
                f"its weights and run its administrative routes; set {VARIABLE} to the same secret here and for the "
                "trainer, or use 127.0.0.1 with an SSH tunnel"
            )
        self.model = str(model)
        self.host = host
        self._reserved: socket.socket | None = None
        self.port = port or self._reserve(0)
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.dtype = dtype
        self.kv_cache_gib = kv_cache_gib
        self.threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self.weight_transfer = weight_transfer
        self.start_seconds = start_seconds
        self.extra = list(extra)
        self.report = report or (lambda line: print(line, file=sys.stderr, flush=True))
        self.log_file = Path(log_file) if log_file else make_private_folder() / "server.log"
        self.log = ServerLog(self.log_file)
        self.folder: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = False

    @property
    def url(self) -> str:
        """Address for ``server_urls``."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model, "--host", self.host, "--port", str(self.port)),
            "--enable-scale-out",  # token ids in, token ids out
            *("--generation-config", "vllm"),  # not the model's own top-k, top-p and repetition penalty
            *("--logprobs-mode", "processed_logprobs"),  # at the sampling temperature
            *("--max-num-seqs", str(self.max_num_seqs), "--dtype", self.dtype),
            *(("--max-model-len", str(self.max_model_len)) if self.max_model_len else ()),
            *("--limit-mm-per-prompt", '{"audio": 1, "image": 0, "video": 0}'),  # no eyes in memory where there are any
            *("--disable-log-stats", "--disable-uvicorn-access-log"),
            # On the CPU compiling takes longer than a small run, and a prompt that is split over two steps while its
            # sampling is seeded ends vLLM 0.32's engine ("CPU Generator does not use offset")
            *(("--enforce-eager", "--no-enable-chunked-prefill") if computes_on_cpu() else ()),
            *(
                ("--weight-transfer-config", json.dumps({"backend": self.weight_transfer}))
                if self.weight_transfer
                else ()
            ),
            *(("--middleware", f"{bearer_token.__name__}.BearerToken") if self.guarded else ()),
            *self.extra,
        ]

    def start(self, wait: bool = True) -> Self:
        """Start the server.

        Args:
            wait: Return only when it is ready.

        Raises:
            ServerStartError: It ended or did not become ready in time.
            UserError: This environment or this machine lacks what a server needs.
        """
        check_machine()
        if self._reserved is None:
            self._reserve(self.port)
        try:
            output = self.log.begin()
        except OSError as error:
            raise ServerStartError(f"the server's log cannot be written: {error}") from None
        self.folder = make_private_folder()
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(self.folder), *self.command()]
        with output:
            self.process = subprocess.Popen(
                guarded,
                env=environment(self.model, self.folder, self.threads, self.kv_cache_gib, self.weight_transfer),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.stop)
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Wait until the server is ready, with a line of progress every 10 s.

        Raises:
            ServerStartError: It ended or did not become ready in time.
        """
        assert self.process is not None, "start() comes first"
        if self._ready and self.process.poll() is None:
            return  # was said before
        begun = reported = time.monotonic()
        self.report(f"vLLM server: starting on {self.url}, log in {self.log_file}")
        while True:
            if (status := self.process.poll()) is not None:
                self.kill()
                raise ServerStartError(
                    f"the vLLM server ended with status {status}{self.log.cause()}; the end of its log:\n"
                    f"{self.log.tail()}"
                )
            with contextlib.suppress(requests.RequestException):
                if _get(f"{self.url}/health") == 200:
                    break
            now = time.monotonic()
            if now - begun > self.start_seconds:
                self.stop()
                raise ServerStartError(
                    f"the vLLM server was not ready after {now - begun:.0f} s; the end of its log:\n{self.log.tail()}"
                )
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                self.report(f"vLLM server: starting since {now - begun:.0f} s: {self.log.tail(1)[-120:].strip()}")
            time.sleep(0.5)
        self._release()
        self._ready = True
        self.report(f"vLLM server: ready on {self.url} after {time.monotonic() - begun:.0f} s")

    def stop(self) -> None:
        """Stop the server and everything that it started; harmless when it does not run."""
        process = self.process
        if process is not None:
            try:
                process.terminate()  # the guard takes the rest along
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                self.kill()

    def kill(self) -> None:
        """End everything at once, as a crash would."""
        atexit.unregister(self.stop)
        self._release()
        process, self.process = self.process, None
        self._ready = False
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads its own session
            process.wait()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _reserve(self, port: int) -> int:
        """Keep a port (0: any that is free) from others until the server listens on it, and return it."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a stopped server do not count
        try:
            reserved.bind((self.host, port))
        except OSError as error:
            reserved.close()
            if error.errno == errno.EADDRINUSE:
                raise ServerStartError(f"port {port} of {self.host} is in use already: choose another port") from None
            raise ServerStartError(f"nothing can listen on port {port} of {self.host}: {error}") from None
        self._reserved = reserved
        return int(reserved.getsockname()[1])

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None


def _get(url: str) -> int:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=5).status_code


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main(args: Sequence[str] | None = None) -> None:
    """Run a server in the foreground until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.vllm_server",
        description="Start a vLLM server for rollouts: token ids in and out, weight updates, exact log-probabilities. "
        "Further arguments are handed to vLLM.",
    )
    parser.add_argument("--model", required=True, help="directory or Hub name of a student's checkpoint")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=f"address to listen on (default: 127.0.0.1); other than loopback only with a secret in {VARIABLE}",
    )
    parser.add_argument("--max-num-seqs", type=int, default=64, help="completions computed at once (default: 64)")
    parser.add_argument("--max-model-len", type=int, help="longest prompt and completion together (default: model's)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    parser.add_argument("--kv-cache-gib", type=int, default=1, help="GiB for keys and values on the CPU (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores but one)")
    parser.add_argument(
        "--weight-transfer",
        choices=WAYS,
        help="how the trainer sends weights: nccl to other GPUs, ipc on the same GPU, gloo to a server on the CPU "
        "(default: as files, which is always possible)",
    )
    parser.add_argument("--log-file", help="where the server's output goes (default: a temporary file)")
    known, extra = parser.parse_known_args(args)
    try:
        server = VLLMServer(**vars(known), extra=extra)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
                signal.signal(number, lambda met, _: sys.exit(128 + met))
        with server:
            assert server.process is not None
            status = server.process.wait()
        sys.exit(f"the vLLM server ended with status {status}{server.log.cause()}; see {server.log_file}")
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
