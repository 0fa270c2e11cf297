"""Sums of a long computation, kept so that a killed one goes on."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pmal_tf.mining.tiles import TilePlan

_SECONDS_BETWEEN = 5.0


class Unfinished:
    """The sums over the blocks that are done, in a file.

    Args:
        path: The file; None keeps nothing.
        spaces: The numbers they are made from.
        plan: The tiles; other tiles round otherwise.
    """

    def __init__(
        self, path: Path | None, spaces: Sequence[np.ndarray], plan: TilePlan
    ) -> None:
        self._path = path
        self._saved_at = time.monotonic()
        self._made_from = ""
        self._arrays: dict[str, np.ndarray] = {}
        if path is not None:
            digest = hashlib.sha256(repr((plan.count, plan.tile, plan.dtype)).encode())
            for points in spaces:
                digest.update(np.ascontiguousarray(points).data)
            self._made_from = digest.hexdigest()

    def load(self, pair: int) -> tuple[int, np.ndarray] | None:
        """Returns the blocks done of a pair of spaces and their sums, if any are."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file, np.load(file) as stored:
                if str(stored["made_from"]) != self._made_from:
                    return None
                blocks, sums = stored[f"blocks_{pair}"], stored[f"sums_{pair}"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        self._keep(pair, int(blocks), sums)
        return int(blocks), sums

    def _keep(self, pair: int, blocks: int, sums: np.ndarray) -> None:
        """Holds what the file will say of a pair; earlier pairs stay beside it."""
        self._arrays[f"blocks_{pair}"] = np.array(blocks)
        self._arrays[f"sums_{pair}"] = sums.copy()

    def save(self, pair: int, blocks: int, sums: np.ndarray) -> None:
        """Writes the sums so far, if some time has passed since the last."""
        if self._path is None:
            return
        self._keep(pair, blocks, sums)
        now = time.monotonic()
        if now - self._saved_at < _SECONDS_BETWEEN:
            return
        self._saved_at = now
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writing = self._path.with_name(f"writing.{self._path.name}")
        with writing.open("wb") as file:
            made_from = {"made_from": np.array(self._made_from)}
            np.savez(file, allow_pickle=False, **made_from, **self._arrays)
        os.replace(writing, self._path)

    def remove(self) -> None:
        """Removes the file: all is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
