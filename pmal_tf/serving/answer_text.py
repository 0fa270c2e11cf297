"""Answers as text: a table for people, JSON for programs, the share of unknown."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pmal_tf.serving.exported import Promise

if TYPE_CHECKING:
    from pmal_tf.serving.client import Answer

_TITLES = (
    "image class unknown_score likeliest probability nearest_prototype error".split()
)
_NUMBERS = ("unknown_score", "probability")
# One long name does not widen the column for all others.
_WIDEST = 60
_NOTHING = "-"


def json_lines(rows: Iterable[tuple[str, Answer]]) -> str:
    """Renders a JSON object, in ASCII, for the path and the answer of each image."""
    return "".join(
        json.dumps({"path": as_text(path), **vars(answer)}, allow_nan=False) + "\n"
        for path, answer in rows
    )


class Table:
    """A table that is written in parts, as answers come.

    Its widths are those of all images' paths and of all classes that may be named.
    """

    def __init__(self, paths: Iterable[str], class_names: Iterable[str]) -> None:
        self._widths = {title: len(title) for title in _TITLES}
        self._widen("image", (_printable(as_text(path)) for path in paths))
        names = [*map(_printable, class_names), "unknown"]
        self._widen("class", names)
        self._widen("likeliest", names)
        self._header = dict(zip(_TITLES, _TITLES, strict=True))

    def lines(self, rows: Sequence[tuple[str, Answer]]) -> str:
        """Renders the next rows, below the header if they are the first."""
        cells = [_cells(path, answer) for path, answer in rows]
        self._widen("nearest_prototype", (row["nearest_prototype"] for row in cells))
        header, self._header = self._header, {}
        return "".join(map(self._line, [header, *cells] if header else cells))

    def _widen(self, title: str, cells: Iterable[str]) -> None:
        """Makes a column as wide as its cells, but for the longest ones."""
        fitting = (width for width in map(_width, cells) if width <= _WIDEST)
        self._widths[title] = max([self._widths[title], *fitting])

    def _line(self, cells: dict[str, str]) -> str:
        """Renders a row."""
        padded = []
        for title, width in self._widths.items():
            space = " " * (width - _width(cells[title]))
            is_number = title in _NUMBERS
            padded.append(space + cells[title] if is_number else cells[title] + space)
        return "  ".join(padded).rstrip() + "\n"


def _cells(path: str, answer: Answer) -> dict[str, str]:
    """Returns the cells of a row by title."""
    cells = dict.fromkeys(_TITLES, _NOTHING)
    cells |= {
        "image": _printable(as_text(path)),
        "error": _printable(answer.error or ""),
    }
    if answer.probabilities is not None and answer.unknown_score is not None:
        likeliest = max(answer.probabilities, key=answer.probabilities.__getitem__)
        cells |= {
            "class": _printable(answer.class_name),
            "unknown_score": f"{answer.unknown_score:.4f}",
            "likeliest": _printable(likeliest),
            "probability": f"{answer.probabilities[likeliest]:.4f}",
            "nearest_prototype": _printable(answer.nearest_prototype or _NOTHING),
        }
    return cells


def describe_share(
    unknown: int,
    readable: int,
    unreadable: int,
    *,
    promise: Promise | None,
    given_threshold: float | None = None,
) -> str:
    """Says how many readable images were unknown, and whether that was to be expected.

    It is what to watch once a model is in use. `promise` is what the model's own
    threshold was set to, if anything; `given_threshold` took its place, if one did.
    """
    from scipy.stats import binomtest

    failed = f", {unreadable:,} unreadable" if unreadable else ""
    if not readable:
        return f"0 images{failed}."
    # Clopper and Pearson's.
    interval = binomtest(unknown, readable).proportion_ci(0.95, method="exact")
    text = (
        f"{readable:,} image{'s' if readable > 1 else ''}: {unknown:,} unknown "
        f"({100 * unknown / readable:.1f} %, 95 % interval {100 * interval.low:.1f} to "
        f"{100 * interval.high:.1f} %){failed}."
    )
    if given_threshold is not None:
        return f"{text} The threshold {given_threshold:g} is not the model's own."
    if promise is None:
        return f"{text} Whoever exported the model chose the threshold."
    rate = f"{100 * promise.reject_rate:.1f} %"
    text += f" The threshold was set to reject at most {rate} of known images."
    if interval.low > max(promise.reject_rate, promise.highest_rate):
        return f"{text} More is rejected than known images alone would explain."
    if interval.low > promise.reject_rate:
        return (
            f"{text} More is rejected, but known images alone might explain it: set on "
            f"{promise.images:,} images, a threshold may reject up to "
            f"{100 * promise.highest_rate:.1f} % of them."
        )
    return text


def as_text(path: str) -> str:
    r"""Returns a path as valid Unicode: bytes that are not UTF-8 become `\xff`."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _printable(text: str) -> str:
    r"""Returns text of one line: line ends and what steers a terminal become `\n`."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _width(text: str) -> int:
    """Returns how many columns a terminal takes for a text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
