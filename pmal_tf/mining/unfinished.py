"""What a long computation has so far, kept so that a killed one goes on."""

from __future__ import annotations

import hashlib
import time
import zipfile
from pathlib import Path

import numpy as np
from absl import logging

from pmal_tf.runtime.files import save_arrays

_SECONDS_BETWEEN = 2.0


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
    """The numbers of the blocks that are done, in a file.

    Args:
        path: The file; None keeps nothing.
        *provenance: All that the numbers are computed from; those of another
            provenance are not gone on from.
    """

    def __init__(self, path: Path | None, *provenance: object) -> None:
        self._path = path
        self._saved_at = time.monotonic()
        self._provenance = fingerprint(*provenance) if path else ""
        # Of every pair of spaces so far.
        self._arrays: dict[str, np.ndarray] = {}

    def load(self, pair: int) -> tuple[int, np.ndarray] | None:
        """Returns the blocks done of a pair of spaces and their numbers, if any are."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file, np.load(file) as stored:
                if str(stored["provenance"]) != self._provenance:
                    return None
                blocks, values = stored[f"blocks_{pair}"], stored[f"values_{pair}"]
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None
        self._arrays |= {f"blocks_{pair}": blocks, f"values_{pair}": values.copy()}
        return int(blocks), values

    def save(self, pair: int, blocks: int, values: np.ndarray) -> None:
        """Writes the numbers so far, if some time has passed since the last."""
        now = time.monotonic()
        if self._path is None or now - self._saved_at < _SECONDS_BETWEEN:
            return
        self._saved_at = now
        self._arrays |= {
            f"blocks_{pair}": np.array(blocks),
            f"values_{pair}": values.copy(),
        }
        try:
            provenance = np.array(self._provenance)
            save_arrays(self._path, {"provenance": provenance, **self._arrays})
        except OSError as error:
            # The computation itself needs no file.
            logging.warning("Not kept so far: %s: %s", self._path, error.strerror)

    def remove(self) -> None:
        """Removes the file: all is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
