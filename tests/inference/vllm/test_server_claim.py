"""One server has several addresses; whichever a second run uses, the first one has it."""

import os
import socket

import pytest

from inference.vllm.client import ServerRefused
from inference.vllm.server_claim import ServerClaim


def own_addresses() -> list[str]:
    found = ["127.0.0.1", "localhost", "127.0.0.3"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            found.append(probe.getsockname()[0])
        except OSError:
            pass
    return found


def test_all_addresses_of_this_machine_are_one(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    claim, other = ServerClaim(), ServerClaim()
    claim.take("http://127.0.0.1:8000", "first")
    for address in own_addresses():
        with pytest.raises(ServerRefused, match=f"process {os.getpid()}, first"):
            other.take(f"http://{address}:8000", "second")
    other.take("http://192.0.2.1:8000", "second")  # of documents, nobody's here
    other.take("http://no-such-host.invalid:8000", "second")
    claim.release()
    other.release()
