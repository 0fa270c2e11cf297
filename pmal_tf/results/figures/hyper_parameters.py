"""AUROC against one hyper-parameter, in the form of Table 5."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from pmal_tf.results.collect.ablation_tables import AblationTable
from pmal_tf.results.collect.paper import BASE, SYMBOLS
from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import Material, OfAll, Picture
from pmal_tf.runtime.errors import PmalError


@style.in_style
def draw_sweep(
    parameter: str,
    measured: Mapping[Any, Sequence[float]],
    *,
    paper: Mapping[Any, float] | None = None,
    caption: str = "",
) -> Picture:
    """Draws the AUROC against one setting.

    Values stand at equal distances, as in a table. The paper's numbers, which are of
    another dataset and network, have a panel of their own: what can be compared is the
    shape.

    Args:
        parameter: Name of the setting.
        measured: The AUROC in [0, 1] of each trial, by value; at least two values.
        paper: The paper's AUROC in percent by value.
        caption: What it is measured on.
    """
    if len(measured) < 2:
        raise PmalError(
            f"A figure of {parameter} needs at least two of its values. Received: "
            f"{len(measured)}"
        )
    # Numbers before words.
    values = sorted(
        {*measured, *(paper or {})},
        key=lambda v: (0, v, "") if _is_number(v) else (1, 0, str(v)),
    )
    ours = [value for value in values if value in measured]
    mean = [100 * statistics.fmean(measured[value]) for value in ours]
    # NaN draws no bar: one of length 0 would claim that trials agree.
    deviation = [
        100 * statistics.stdev(measured[v]) if len(measured[v]) > 1 else math.nan
        for v in ours
    ]
    panels = 2 if paper else 1
    figure = Figure(figsize=(4.2, 4.4 if paper else 3.0))
    all_axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    x = [values.index(value) for value in ours]
    all_axes[0].errorbar(x, mean, yerr=deviation, capsize=3, **_line(0, values))
    all_axes[0].set_title("measured here")
    if paper:
        theirs = [value for value in values if value in paper]
        x = [values.index(value) for value in theirs]
        all_axes[1].plot(x, [paper[v] for v in theirs], **_line(1, theirs))
        all_axes[1].set_title("paper (TinyImageNet, WRN-40-4)")
    for axes in all_axes:
        axes.set_ylabel("AUROC, %")
    shown = [f"{v:g}" if _is_number(v) else str(v) for v in values]
    all_axes[-1].set_xticks(range(len(values)), shown)
    label = f"{parameter.replace('_', ' ')} {SYMBOLS.get(parameter, '')}".strip()
    all_axes[-1].set_xlabel(label)
    counts = [len(aurocs) for aurocs in measured.values()]
    noun = "trial" if max(counts) == 1 else "trials"
    spread = " Bars: one standard deviation over trials." if max(counts) > 1 else ""
    return Picture(
        figure,
        f"AUROC against {label}",
        f"{caption} n = {style.span(counts)} {noun} a point.{spread}".strip(),
    )


def _filled_rows(material: Material) -> Iterator[tuple[str, AblationTable]]:
    """Yields the rows of Table 5, of each set of runs that has some."""
    for number, table in enumerate(material.tables):
        if table.paper.setting is not None:
            yield f"{table.paper.name}_{number}", table


def _draw_row(table: AblationTable) -> Picture:
    """Draws a row of Table 5."""
    setting = str(table.paper.setting)
    rows = {{**BASE, **row.cell.overrides}[setting]: row for row in table.rows}
    measured = {value: row.values("dr.auroc") for value, row in rows.items()}
    return draw_sweep(
        setting,
        {value: aurocs for value, aurocs in measured.items() if aurocs},
        paper={value: row.cell.paper["auroc"] for value, row in rows.items()},
        caption=f"AUROC DR on {table.shared['dataset']}.",
    )


FIGURES = (OfAll(_filled_rows, _draw_row),)


def _is_number(value: Any) -> bool:
    """Says whether a value is a number; True and False are words."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(position: int, values: Sequence[Any]) -> dict[str, Any]:
    """Returns the style of a line; between words there is nothing to pass through."""
    return {
        "linestyle": style.LINES[position] if all(map(_is_number, values)) else "none",
        "marker": style.MARKERS[position],
        "color": style.COLOURS[position],
    }
