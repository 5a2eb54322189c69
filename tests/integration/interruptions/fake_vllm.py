"""Processes like those of vLLM: an API process with ``/health``, and an engine in a session of its own.

``python fake_vllm.py PORT FILE`` writes its process ids to FILE. It ends as vLLM does: asked by SIGTERM the API process
takes its engine along, killed it leaves it behind.
"""

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


class Health(BaseHTTPRequestHandler):
    """All is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


if __name__ == "__main__":
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

    def stop(*_: Any) -> None:
        engine.kill()
        engine.wait()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Health)
    file = Path(sys.argv[2])
    file.with_suffix(".new").write_text(f"{os.getpid()} {engine.pid} {os.environ['TMPDIR']}")
    file.with_suffix(".new").rename(file)
    server.serve_forever()
