"""How far a long computation is, and how long it will take."""

from __future__ import annotations

import io
import sys

from absl import logging
from tqdm import tqdm

# Short computations say nothing.
_PATIENCE_SECONDS = 3.0
_SECONDS_BETWEEN_LINES = 30.0


class _LogFile(io.StringIO):
    """A file whose lines go to the log."""

    def write(self, text: str) -> int:
        """Logs what a bar says of itself."""
        if text.strip():
            logging.info("%s", text.strip())
        return len(text)


def progress_bar(label: str, total: int, done: int = 0) -> tqdm:
    """Returns a bar on a terminal; elsewhere now and then a line in the log.

    Args:
        label: What is computed.
        total: Amount of work in all.
        done: Work done before, by a run that was cut short.
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
