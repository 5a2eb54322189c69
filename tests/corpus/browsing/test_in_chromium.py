"""The page in a real browser: filters, sound, verdicts by key, and what other sites can do to it."""

import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from records.records import Verdict, read_jsonl
from tests.support.browser import Browser
from tests.support.dataset_files import tone, write_mp4

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.integration


@pytest.fixture
def page(corpus: Path) -> Iterator[str]:
    """The address of the page, as the command line starts it."""
    write_mp4(corpus / "videos" / "clip0.mp4", tone(1.0), codec="libx264")
    command = [sys.executable, "-m", "corpus", "browse", str(corpus), "--label", "ann", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert found
    yield found[0]
    process.terminate()
    process.wait(20)


def until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def label_of(browser: Browser, trace: int) -> str:
    return str(browser.evaluate(f"document.querySelectorAll('.trace')[{trace}].dataset.label"))


def test_filter_play_accept_reject_take_back(page: str, browser: Browser, corpus: Path) -> None:
    browser.open(page)
    until(lambda: browser.evaluate("!document.getElementById('status')") or browser.open(page))
    assert browser.evaluate("document.querySelectorAll('a.row').length") == 6
    loads = browser.loads
    choose = "document.querySelector('select[name=gate]')"
    browser.evaluate(f"{choose}.value = 'accepted'; {choose}.dispatchEvent(new Event('change'))")
    browser.wait_for_load(loads + 1)
    assert browser.evaluate("document.querySelectorAll('a.row').length") == 1

    browser.press("j")
    browser.press("Enter")
    browser.wait_for_load(loads + 2)
    assert browser.evaluate("document.title") == "What can be heard in the video?"  # no script of a trace has run
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 32)")
    clip = "document.getElementById('clip')"
    until(lambda: browser.evaluate(f"{clip}.readyState > 0"))
    assert browser.evaluate(f"{clip}.muted") is True
    browser.press("m")
    assert browser.evaluate(f"{clip}.muted") is False
    until(lambda: "with sound" in browser.evaluate("document.getElementById('sound').textContent"))
    browser.press(" ")
    until(lambda: browser.evaluate(f"{clip}.currentTime > 0"))

    browser.press("a")  # the first trace is chosen when the page opens
    until(lambda: label_of(browser, 0) == "accepted")
    browser.press("j")
    browser.press("r")
    until(lambda: label_of(browser, 1) == "rejected")
    loads = browser.loads
    browser.press("u")
    browser.wait_for_load(loads + 1)
    assert (label_of(browser, 0), label_of(browser, 1)) == ("accepted", "")
    written = list(read_jsonl(corpus / "labels" / "ann.jsonl", Verdict))
    assert [(verdict.sample, verdict.accepted, verdict.checker) for verdict in written] == [(0, True, "person:ann")]
    if folder := os.environ.get("PICTURES"):
        browser.picture(Path(folder) / "question.png")
        browser.press("Escape")
        browser.wait_for_load(loads + 2)
        browser.picture(Path(folder) / "list.png")


def test_another_site_can_neither_read_nor_write(page: str, browser: Browser, corpus: Path) -> None:
    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html><title>another site</title>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        browser.open(f"http://localhost:{site.server_port}")
        said = '{method: "POST", mode: "no-cors", body: JSON.stringify({n: 0, sample: 0, accepted: true})}'
        assert browser.evaluate(f"fetch('{page}/label', {said}).then(a => a.type, () => 'failed')") in (
            "opaque",
            "failed",
        )
        assert browser.evaluate(f"fetch('{page}/').then(a => a.status, () => 'failed')") == "failed"
        load = "new Promise(done => {const i = new Image(); i.onload = () => done('seen');"
        load += f" i.onerror = () => done('refused'); i.src = '{page}/frame/0/0'}})"
        assert browser.evaluate(load) == "refused"
        site.shutdown()
    assert (corpus / "labels" / "ann.jsonl").read_text() == ""
