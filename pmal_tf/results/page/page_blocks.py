"""What a report is made of, and how each part looks as HTML and as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pmal_tf.results.page.tables import markdown_table


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3, with a name to link to."""

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Code:
    """A piece of a paragraph that is to be typed, or is a name of a file."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Text, with code in between."""

    parts: tuple[str | Code, ...]


@dataclass(frozen=True)
class Bullets:
    """A list of paragraphs."""

    items: tuple[Paragraph, ...]


@dataclass(frozen=True)
class Cell:
    """An entry of a table.

    Attributes:
        text: What it says.
        note: A smaller line below.
        tone: `good`, `bad`, `missing` or nothing; never the only bearer of a meaning.
        words: Whether it is a sentence, not a number.
    """

    text: str
    note: str = ""
    tone: str = ""
    words: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        caption: What the table shows.
        header: Titles of the columns.
        rows: Cells, as many per row as titles.
        looks: Per row `main`, `quoted` or nothing; shorter than the rows is fine.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    looks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folded:
    """Preformatted text that is shown on demand."""

    summary: str
    text: str


@dataclass(frozen=True)
class FoldedBlocks:
    """Blocks that are shown on demand."""

    summary: str
    blocks: tuple[Any, ...]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        title: Its title, which also stands for it where it cannot be seen.
        caption: What it shows.
        png: The image.
        svg: The same as a drawing, or None.
    """

    title: str
    caption: str
    png: Path
    svg: Path | None


Block = Heading | Paragraph | Bullets | Table | Folded | FoldedBlocks | Picture


def paragraph(*parts: str | Code) -> Paragraph:
    """Returns a paragraph of some parts."""
    return Paragraph(parts)


def anchor_of(text: str) -> str:
    """Returns a name to link to, of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def to_html(blocks: Sequence[Block]) -> str:
    """Renders blocks as HTML; every text is escaped.

    Raises:
        OSError: If a picture cannot be read.
    """
    return "\n".join(_HTML[type(block)](block) for block in blocks)


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Renders blocks as Markdown.

    Args:
        blocks: The blocks.
        folder: Where the file will be: pictures are linked relative to it.
    """
    return "\n".join(_markdown(block, folder) for block in blocks)


def _html_parts(content: Paragraph) -> str:
    """Renders a paragraph without its tag."""
    return "".join(
        f"<code>{escape(part.text)}</code>" if isinstance(part, Code) else escape(part)
        for part in content.parts
    )


def _html_heading(block: Heading) -> str:
    name = f' id="{escape(block.anchor)}"' if block.anchor else ""
    return f"<h{block.level}{name}>{escape(block.text)}</h{block.level}>"


def _html_bullets(block: Bullets) -> str:
    return f"<ul>{''.join(f'<li>{_html_parts(i)}</li>' for i in block.items)}</ul>"


def _html_cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.tone:
        text = f'<span class="{escape(cell.tone)}">{text}</span>'
    if cell.note:
        text += f"<small>{escape(cell.note)}</small>"
    return f'<td class="words">{text}</td>' if cell.words else f"<td>{text}</td>"


def _html_table(block: Table) -> str:
    """Renders a table whose rows and columns have headers that machines can tell."""
    head = "".join(
        f'<th scope="col"{_class_of(block, column)}>{escape(title)}</th>'
        for column, title in enumerate(block.header)
    )
    body = []
    for index, (first, *others) in enumerate(block.rows):
        look = block.looks[index] if index < len(block.looks) else ""
        name = first.text if isinstance(first, Cell) else first
        cells = "".join(_html_cell(_as_cell(other)) for other in others)
        opening = f'<tr class="{escape(look)}">' if look else "<tr>"
        body.append(f'{opening}<th scope="row">{escape(name)}</th>{cells}</tr>')
    # One who scrolls by keyboard has to be able to get into a table that is too wide.
    return (
        f'<div class="wide" tabindex="0" role="region" '
        f'aria-label="{escape(block.caption)}"><table>'
        f"<caption>{escape(block.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _class_of(block: Table, column: int) -> str:
    """Returns the class of a column's header, that of its first entry."""
    first = _as_cell(block.rows[0][column]) if block.rows else Cell("")
    return ' class="words"' if first.words else ""


def _html_folded(block: Folded) -> str:
    return (
        f"<details><summary>{escape(block.summary)}</summary>"
        f"<pre>{escape(block.text)}</pre></details>"
    )


def _html_folded_blocks(block: FoldedBlocks) -> str:
    return (
        f'<details class="experiment"><summary>{escape(block.summary)}</summary>'
        f"{to_html(block.blocks)}</details>"
    )


def _html_picture(block: Picture) -> str:
    """Renders a figure with its pixels inside and its drawing as a link."""
    pixels = base64.b64encode(block.png.read_bytes()).decode()
    link = ""
    if block.svg is not None:
        target = escape(f"{block.svg.parent.name}/{block.svg.name}")
        link = f' <a href="{target}">The same as SVG</a>.'
    return (
        f"<figure><h3>{escape(block.title)}</h3>"
        f'<img alt="{escape(block.title)}" src="data:image/png;base64,{pixels}">'
        f"<figcaption>{escape(block.caption)}{link}</figcaption></figure>"
    )


_HTML: dict[type, Callable[[Any], str]] = {
    Heading: _html_heading,
    Paragraph: lambda block: f"<p>{_html_parts(block)}</p>",
    Bullets: _html_bullets,
    Table: _html_table,
    Folded: _html_folded,
    FoldedBlocks: _html_folded_blocks,
    Picture: _html_picture,
}


def _as_cell(cell: Cell | str) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def escape_markdown(text: str) -> str:
    """Keeps a text from being taken for Markdown or HTML, on one line."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split("\n")))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _code(text: str) -> str:
    """Renders code with a fence that it does not hold."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{text}{fence}"


def _markdown_parts(content: Paragraph) -> str:
    return "".join(
        _code(part.text) if isinstance(part, Code) else escape_markdown(part)
        for part in content.parts
    )


def _markdown_cell(cell: Cell | str) -> str:
    cell = _as_cell(cell)
    note = f"; {escape_markdown(cell.note)}" if cell.note else ""
    return escape_markdown(cell.text) + note


def render_table(block: Table) -> str:
    """Renders a table as Markdown, without its caption."""
    header = [escape_markdown(title) for title in block.header]
    return markdown_table(header, [[*map(_markdown_cell, row)] for row in block.rows])


def _markdown(block: Block, folder: Path) -> str:
    """Renders one block."""
    match block:
        case Heading():
            return f"{'#' * block.level} {escape_markdown(block.text)}\n"
        case Paragraph():
            return f"{_markdown_parts(block)}\n"
        case Bullets():
            return "".join(f"- {_markdown_parts(item)}\n" for item in block.items)
        case Table():
            return f"{escape_markdown(block.caption)}\n\n{render_table(block)}"
        case Folded():
            return (
                f"<details><summary>{escape(block.summary)}</summary>\n\n"
                f"<pre>{escape(block.text)}</pre>\n\n</details>\n"
            )
        case FoldedBlocks():
            return (
                f"<details><summary>{escape(block.summary)}</summary>\n\n"
                f"{to_markdown(block.blocks, folder)}\n</details>\n"
            )
        case Picture():
            png = block.png.relative_to(folder).as_posix()
            return (
                f"### {escape_markdown(block.title)}\n\n"
                f"![{escape_markdown(block.title)}](<{png}>)\n\n"
                f"{escape_markdown(block.caption)}\n"
            )
