"""A real headless Chromium: found, or installed from Debian, and driven through its debugging pipe."""

import base64
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install -y --no-install-recommends chromium"


def find_or_install() -> str:
    """Return the path of a Chromium.

    Raises:
        RuntimeError: There is none and it cannot be installed; the message says how to.
    """
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    sudo = "" if os.geteuid() == 0 else "sudo -n "
    log = ""
    if shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (f"{sudo}apt-get update", f"{sudo}{INSTALL}"):
            done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, check=False)
            log = (done.stdout + done.stderr)[-500:]
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    raise RuntimeError(f"pages are tested in Chromium, which is not installed: {INSTALL}\n{log}")


class Browser:
    """One page in a headless Chromium."""

    def __init__(self, path: str, profile: Path) -> None:
        """Start the browser.

        Args:
            path: Its program.
            profile: An empty folder for its files.
        """
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # it reads commands from file descriptor 3 and writes answers to 4
        shell = f'exec 3<&{to_read} 4>&{to_write}; exec "$0" "$@"'
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, path, *arguments],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._pending = b""
        self.events: list[dict[str, Any]] = []
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        """Return the browser."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it with all its processes."""
        os.close(self._to)
        os.close(self._from)
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def open(self, url: str) -> None:
        """Load a page and wait until everything in it is there."""
        loads = self.loads
        self._ask("Page.navigate", url=url)
        self.wait_for_load(loads + 1)

    @property
    def loads(self) -> int:
        """How many pages have been loaded."""
        return sum(event["method"] == "Page.loadEventFired" for event in self.events)

    def wait_for_load(self, number: int) -> None:
        """Wait until so many pages have been loaded, as after a click on a link."""
        while self.loads < number:
            self.events.append(self._next())

    def press(self, key: str) -> None:
        """Press a key and let go."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}.get(key, 0)
        self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path) -> None:
        """Write what can be seen to a PNG file."""
        file.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def evaluate(self, script: str) -> Any:
        """Return what a script returns; it may be a promise."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            if not (read := os.read(self._from, 1 << 16)):
                raise AssertionError("Chromium has ended")
            self._pending += read
        message, self._pending = self._pending.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found
