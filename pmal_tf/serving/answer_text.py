"""Answers as lines of text: a table for people, JSON for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

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
    """Renders a JSON object, in ASCII, for the path and the answer of each image.

    Raises:
        ValueError: If a number is not finite.
    """
    lines = [
        json.dumps({"path": as_text(path), **vars(answer)}, allow_nan=False) + "\n"
        for path, answer in rows
    ]
    return "".join(lines)


class Table:
    """A table that is written in parts, as answers come.

    Args:
        paths: The paths of all images.
        class_names: All classes that may be named.
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
