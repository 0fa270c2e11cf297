"""Answers as lines of text: a table for people, JSON for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmal_tf.serving.client import Answer

_HEADER = (
    *("image", "class", "unknown_score", "likeliest", "probability"),
    *("nearest_prototype", "error"),
)
_NUMBERS = ("unknown_score", "probability")
# One long name does not widen the column for all others.
_WIDEST = 60
_NOTHING = "-"


def json_lines(rows: Iterable[tuple[str, Answer]]) -> str:
    """Renders one JSON object per image, in ASCII.

    Args:
        rows: The path and the answer of each image.

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
        self._widths = [len(title) for title in _HEADER]
        self._widen("image", (_printable(as_text(path)) for path in paths))
        names = [*map(_printable, class_names), "unknown"]
        self._widen("class", names)
        self._widen("likeliest", names)
        self._has_header = False

    def lines(self, rows: Sequence[tuple[str, Answer]]) -> str:
        """Renders the next rows, below the header if they are the first.

        Args:
            rows: The path and the answer of each image.
        """
        cells = [_cells(path, answer) for path, answer in rows]
        prototypes = _HEADER.index("nearest_prototype")
        self._widen("nearest_prototype", (row[prototypes] for row in cells))
        text = "" if self._has_header else self._line(_HEADER)
        self._has_header = True
        return text + "".join(map(self._line, cells))

    def _widen(self, title: str, cells: Iterable[str]) -> None:
        """Makes a column as wide as its cells, but for the longest ones."""
        column = _HEADER.index(title)
        fitting = (width for width in map(_width, cells) if width <= _WIDEST)
        self._widths[column] = max([self._widths[column], *fitting])

    def _line(self, cells: Sequence[str]) -> str:
        """Renders a row."""
        padded = []
        for title, cell, width in zip(_HEADER, cells, self._widths, strict=True):
            space = " " * (width - _width(cell))
            padded.append(space + cell if title in _NUMBERS else cell + space)
        return "  ".join(padded).rstrip() + "\n"


def _cells(path: str, answer: Answer) -> tuple[str, ...]:
    """Returns the cells of a row, in the order of the header."""
    image = _printable(as_text(path))
    if answer.probabilities is None or answer.unknown_score is None:
        return (image, *[_NOTHING] * (len(_HEADER) - 2), _printable(answer.error or ""))
    likeliest = max(answer.probabilities, key=answer.probabilities.__getitem__)
    return (
        image,
        _printable(answer.class_name),
        f"{answer.unknown_score:.4f}",
        _printable(likeliest),
        f"{answer.probabilities[likeliest]:.4f}",
        _printable(answer.nearest_prototype or _NOTHING),
        "",
    )


def as_text(path: str) -> str:
    r"""Returns a path as valid Unicode: bytes that are not UTF-8 become `\xff`.

    Args:
        path: As Python has it, with such bytes as surrogates.
    """
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
