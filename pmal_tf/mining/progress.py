"""How far a long computation is: shown, and kept so that a killed one goes on."""

from __future__ import annotations

import hashlib
import io
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from pmal_tf.runtime.files import save_arrays

# Short computations show nothing.
_PATIENCE_SECONDS = 3.0
_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_FILES = 2.0


class _LogFile(io.StringIO):
    """A file whose lines go to the log."""

    def write(self, text: str) -> int:
        """Logs a line of the bar."""
        if text.strip():
            logging.info("%s", text.strip())
        return len(text)


def progress_bar(label: str, total: int, done: int = 0) -> tqdm:
    """Returns a bar on a terminal; elsewhere now and then a line in the log.

    `done` of the `total` amount of work was done before, by a run that was cut short.
    """
    terminal = sys.stderr.isatty()
    bar = "|{bar:30}|" if terminal else " done,"
    return tqdm(
        desc=label,
        total=total,
        initial=done,
        delay=_PATIENCE_SECONDS,
        smoothing=0,
        file=sys.stderr if terminal else _LogFile(),
        mininterval=0.1 if terminal else _SECONDS_BETWEEN_LINES,
        maxinterval=2 * _SECONDS_BETWEEN_LINES,
        bar_format=f"{{desc}}: {{percentage:3.0f}} %{bar} {{remaining}} left",
    )


def fingerprint(*parts: object) -> str:
    """Returns a hash of arrays, and of other things by their `repr`."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.shape, part.dtype)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


class Unfinished:
    """The numbers so far, in a file.

    Args:
        path: The file; None keeps nothing.
        *provenance: All that the numbers are computed from; those of another
            provenance are not gone on from.
    """

    def __init__(self, path: Path | None, *provenance: object) -> None:
        self._path = path
        self._saved_at = time.monotonic()
        self._provenance = fingerprint(*provenance) if path else ""

    def load(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the blocks done and the numbers, as saved, if there are any."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file, np.load(file) as stored:
                if str(stored["provenance"]) == self._provenance:
                    return stored["blocks"], stored["values"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            pass  # Cut short or damaged: the work begins anew.
        return None

    def save(self, blocks: np.ndarray, values: np.ndarray) -> None:
        """Writes the numbers so far, if some time has passed since the last."""
        now = time.monotonic()
        if self._path is None or now - self._saved_at < _SECONDS_BETWEEN_FILES:
            return
        self._saved_at = now
        provenance = np.array(self._provenance)
        arrays = {"provenance": provenance, "blocks": blocks, "values": values}
        try:
            save_arrays(self._path, arrays)
        except OSError as error:
            # The computation itself needs no file.
            logging.warning("Not kept so far: %s: %s", self._path, error.strerror)

    def remove(self) -> None:
        """Removes the file: all is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
