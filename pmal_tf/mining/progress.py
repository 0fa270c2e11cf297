"""How far a long computation is, and how long it will take."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from absl import logging
from tqdm import tqdm

# Short computations say nothing.
_PATIENCE_SECONDS = 3.0
_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A bar with the time left on a terminal; elsewhere now and then a line in the log.

    Args:
        label: What is computed.
        total: Amount of work in all.
        done: Work done before, by a run that was cut short.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._label = label
        self._total = total
        self._before = done
        self._done = done
        self._began = self._said = time.monotonic()
        self._bar = tqdm(
            desc=label,
            total=total,
            initial=done,
            delay=_PATIENCE_SECONDS,
            disable=not sys.stderr.isatty(),
            bar_format="{desc}: {percentage:3.0f} %|{bar:30}| {remaining} left",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, amount: int) -> None:
        """Tells that an amount of work was done."""
        self._done += amount
        self._bar.update(amount)
        now = time.monotonic()
        if not self._bar.disable or now - self._said < _SECONDS_BETWEEN_LINES:
            return
        self._said = now
        rate = (self._done - self._before) / (now - self._began)
        logging.info(
            "%s: %.0f %% done, %.0f s left",
            *(self._label, 100 * self._done / self._total),
            (self._total - self._done) / rate,
        )
