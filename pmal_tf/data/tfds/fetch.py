"""Downloading a file with progress and resume, and asking whether a host answers.

TFDS, Keras and pooch download as well, but none goes on where a download broke off.
"""

from __future__ import annotations

import functools
import hashlib
import queue
import threading
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from pmal_tf.runtime.errors import PmalError, first_line

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
PROBE_SECONDS = 10.0

_BLOCK_BYTES = 1 << 16  # What a broken connection costs at most.


def check_reachable(urls: Iterable[str], way_out: str) -> None:
    """Asks every host for one file before long work is begun; takes seconds at most.

    Proxies are taken from the environment, as TFDS does.

    Raises:
        PmalError: If a host does not answer, or does not give the file; its message
            ends with `way_out`, what the user can do.
    """
    for url in {urlsplit(url).netloc: url for url in urls}.values():
        if reason := _why_unreachable(url):
            raise PmalError(
                f"A download is needed, but its address does not answer; expected a "
                f"file at {url}. Received: {reason}. {way_out}"
            )


def _why_unreachable(url: str) -> str:
    """Returns why an address does not answer, empty if it does.

    The limits of `requests` hold per address of the host and not for name resolution;
    only a thread that may be left behind keeps the promise of seconds.
    """
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
                response.raise_for_status()
            reasons.put("")
        except OSError as error:  # Those of `requests` are such, too.
            reasons.put(network_reason(error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        return reasons.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return f"no answer within {PROBE_SECONDS:g} seconds"


def network_reason(error: BaseException) -> str:
    """Returns the cause of a network error.

    `requests` wraps the reason of urllib3 in a text that repeats the address.
    """
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    cause = reason if isinstance(reason, BaseException) else error
    return f"{type(cause).__name__}: {first_line(cause)}"


def download(url: str, target: Path, md5: str, way_out: str) -> None:
    """Downloads a file, going on where an earlier try was cut off.

    What is there so far lies in `<target>.part`; the target appears when it is whole
    and has its checksum.

    Raises:
        PmalError: If the connection breaks, the checksum is wrong, or the file cannot
            be written.
    """
    part = target.with_name(f"{target.name}.part")
    # The published checksum guards against accidents, not attacks.
    new_md5 = functools.partial(hashlib.md5, usedforsecurity=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, new_md5).hexdigest()
        if found != md5:
            size = part.stat().st_size
            part.unlink()
            raise PmalError(
                f"The download of {url} has the wrong checksum and was removed; "
                f"expected MD5 {md5}. Received: {found} of {size:,} bytes. {way_out}"
            )
        part.replace(target)
    except requests.RequestException as error:
        raise PmalError(
            f"The download of {url} broke off. Received: {network_reason(error)}. What "
            f"has arrived is kept. {way_out}"
        ) from error
    except OSError as error:
        raise PmalError(
            f"The download of {url} needs a file that can be written. Received: "
            f"{str(part)!r}: {first_line(error)}. Make room or change its permissions, "
            "or choose another folder with --data_dir."
        ) from error


def _receive(url: str, part: Path) -> None:
    """Appends to a file what it lacks, with a progress bar."""
    held = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    limits = (CONNECT_SECONDS, READ_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=limits) as response:
        if held and response.status_code == requests.codes.range_not_satisfiable:
            return  # Nothing follows what is there; the checksum will tell.
        response.raise_for_status()
        # A server that ignores the range answers 200 and sends all of it.
        if not response.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
            held = 0
        length = response.headers.get("Content-Length")
        bar = tqdm(
            desc=part.stem,
            initial=held,
            total=held + int(length) if length else None,
            unit="B",
            unit_scale=True,
        )
        with bar, part.open("ab" if held else "wb") as file:
            for block in response.iter_content(_BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
