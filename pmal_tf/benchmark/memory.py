"""How much memory there is, and how much a piece of work takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pmal_tf.runtime.errors import PmalError

Result = TypeVar("Result")

_PROCESS = Path("/proc/self")
# Written here, it sets the process's peak of resident memory back to what is resident.
_CLEAR_PEAK, _CLEAR_PEAK_CODE = _PROCESS / "clear_refs", "5"
_SAMPLING_SECONDS = 0.001


def available_memory() -> int:
    """Returns the bytes of memory that can be had without swapping."""
    with contextlib.suppress(OSError, KeyError):
        return _bytes(Path("/proc/meminfo"))["MemAvailable"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_extra_memory(work: Callable[[], Result]) -> tuple[Result, int]:
    """Returns what `work` did, and the bytes that resident memory grew by at its peak.

    The kernel keeps that peak and can be told to begin anew; where it refuses, a thread
    looks every millisecond, and misses what lives shorter than that.

    Raises:
        PmalError: If this is not Linux.
    """
    if not (_PROCESS / "status").exists():
        raise PmalError(
            "Peak memory is read from /proc, which Linux has. Received: platform "
            f"{sys.platform!r}. Run this benchmark on Linux."
        )
    # Freed memory goes back to the kernel; taken again, it would not count as growth.
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it.
        ctypes.CDLL(None).malloc_trim(0)
    if _reset_peak():
        before = _status("VmRSS")
        result = work()
        return result, max(_status("VmHWM") - before, 0)
    done = threading.Event()
    before = peak = _status("VmRSS")

    def look() -> None:
        nonlocal peak
        while not done.wait(_SAMPLING_SECONDS):
            peak = max(peak, _status("VmRSS"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        result = work()
        after = _status("VmRSS")
    finally:
        done.set()
        thread.join()
    return result, max(peak, after) - before


def _reset_peak() -> bool:
    """Sets the kernel's peak back, and says whether that did it."""
    try:
        _CLEAR_PEAK.write_text(_CLEAR_PEAK_CODE)
        return _status("VmHWM") - _status("VmRSS") < 2**20
    except (OSError, KeyError):
        return False


def _status(name: str) -> int:
    """Returns what the kernel says of this process, in bytes."""
    return _bytes(_PROCESS / "status")[name]


def _bytes(path: Path) -> dict[str, int]:
    """Reads the lines `Name:  123 kB` of a file of /proc."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].removesuffix(":"): int(words[1]) * 1024
        for words in lines
        if words[-1:] == ["kB"]
    }
