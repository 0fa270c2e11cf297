"""A server in a process of its own, and headless Chromium that looks at its pages."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
_ARGUMENTS = (
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_SECONDS = 120


def leave_without(*packages: str) -> None:
    """Ends the script where what it needs is not there."""
    lacking = [name for name in packages if not importlib.util.find_spec(name)]
    lacking += [] if Path(CHROMIUM).exists() else [f"Chromium ({CHROMIUM})"]
    if lacking:
        sys.exit(f"This proof needs {', '.join(lacking)}, not found here.")


def answer_of(url: str) -> bytes:
    """Returns what a server answers, nothing where it does not."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return b""


@contextlib.contextmanager
def serving(*arguments: str, ready: Callable[[str], bool]) -> Iterator[str]:
    """Runs `python -m` with a free port, and gives its URL once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *arguments, f"--port={port}"]
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryFile("w+") as errors:

        def said() -> str:
            errors.seek(0)
            return errors.read()

        process = subprocess.Popen(command, stderr=errors)
        try:
            until = time.monotonic() + _SECONDS
            while not ready(url):
                assert process.poll() is None, f"{arguments[0]} ended: {said()}"
                assert time.monotonic() < until, f"{arguments[0]} is not ready"
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)
        assert "Traceback" not in said(), said()


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[tuple[Callable, set[str]]]:
    """Gives what opens pages of a width and height, and all other hosts they asked."""
    from playwright.sync_api import sync_playwright

    strange: set[str] = set()

    def asked(request) -> None:
        # Pictures inside the page (data:) have no host.
        strange.update({urlsplit(request.url).hostname} - {"127.0.0.1", "", None})

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*_ARGUMENTS, *arguments]
        )

        def open_page(width: int, height: int, seconds: int):
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * seconds)
            page.on("request", asked)
            return page

        yield open_page, strange
        browser.close()
