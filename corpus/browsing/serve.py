"""Shows a corpus on the loopback address until it is interrupted."""

import contextlib
import socket
import threading
from pathlib import Path

import uvicorn

from corpus.browsing.app import make_app
from corpus.browsing.clips import Clips
from corpus.browsing.index import CorpusIndex
from corpus.browsing.labels import LabelFile
from corpus.browsing.place import Place
from runtime.errors import UserError

LOOPBACK = "127.0.0.1"


def serve(place: Place, person: str | None, port: int) -> None:
    """Show a corpus.

    The page is there as soon as the questions are read; traces, verdicts and the decoder follow behind it.

    Args:
        place: Where the corpus lies.
        person: Name of who judges traces; None shows only.
        port: The port; 0 takes any that is free.

    Raises:
        UserError: A file is missing or unusable, or the port is taken.
    """
    index, clips = CorpusIndex(place), Clips(place)
    with contextlib.ExitStack() as held:
        labels = LabelFile(Path(place.labels), person) if person else None
        if labels:
            held.callback(labels.close)
        try:
            taken = held.enter_context(socket.create_server((LOOPBACK, port)))
        except OSError as error:
            raise UserError(f"port {port} cannot be used ({error.strerror}): choose another by --port") from None
        port = taken.getsockname()[1]
        app = make_app(index, clips, labels, [f"{LOOPBACK}:{port}", f"localhost:{port}"])
        threading.Thread(target=index.read_records, daemon=True).start()
        print(f"{place.annotations}: http://{LOOPBACK}:{port} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([taken])
