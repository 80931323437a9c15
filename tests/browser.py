"""A headless Chromium that opens a page which sends back what it saw."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and the page ``/driver``, and takes what this one sends to ``/seen``."""

    def do_GET(self):
        content = self.server.driver.encode() if self.path == "/driver" else self.page()
        if content is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return self.wfile.write(content)

    def do_POST(self):
        self.server.seen = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.finished.set()

    def page(self):
        """Return the content of the path, or None where the file's is to be sent as it is."""

    def log_message(self, *_):
        """Say nothing."""


def seen_by_chromium(folder: Path, driver: str, profile: Path, seconds: float, handler=Handler):
    """Open a page beside the files of a folder, and return what it sends; skip without Chromium.

    Args:
        driver: the page, which ends with ``fetch("/seen", {method: "POST", body: ...})`` of JSON.
        profile: a folder for Chromium's files.
        seconds: how long the page may take.
    """
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("there is no Chromium here")
    handler = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.driver, server.seen, server.finished = driver, None, threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        browser = subprocess.Popen(
            [
                *[chromium, *options, "--remote-debugging-port=0"],  # stays until it is ended
                *[f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/driver"],
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert server.finished.wait(seconds), "Chromium sent nothing"
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
    return server.seen
