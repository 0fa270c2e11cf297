"""AUROC against one hyper-parameter, in the form of Table 5."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmal_tf.results.collect.ablation_tables import AblationTable
from pmal_tf.results.collect.paper_ablations import BASE, SYMBOLS
from pmal_tf.results.figures.figure import Drawn, Material, OfAll
from pmal_tf.results.figures.style import (
    COLOURS,
    LINES,
    MARKERS,
    new_figure,
    save,
    tidy,
)
from pmal_tf.runtime.errors import PmalError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAPER = "paper (TinyImageNet, WRN-40-4)"


@dataclass(frozen=True)
class SweepPoint:
    """The AUROC at one value of a setting.

    Attributes:
        value: Of the setting.
        mean: Mean AUROC over trials, in [0, 1].
        deviation: Sample standard deviation, None for one trial.
        count: Trials.
    """

    value: Any
    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, value: Any, aurocs: Sequence[float]) -> SweepPoint:
        """Returns the point of at least one trial."""
        deviation = statistics.stdev(aurocs) if len(aurocs) > 1 else None
        return cls(value, statistics.fmean(aurocs), deviation, len(aurocs))


def draw_sweep(
    parameter: str,
    points: Sequence[SweepPoint],
    out: Path,
    name: str,
    *,
    paper: Mapping[float, float] | None = None,
    caption: str = "",
) -> Drawn:
    """Draws the AUROC against one setting.

    Values stand at equal distances, as in a table. The paper's numbers, which are of
    another dataset and network, have a panel of their own: what can be compared is the
    shape.

    Args:
        parameter: Name of the setting.
        points: At least two.
        out: The folder.
        name: Stem of the files.
        paper: The paper's AUROC in percent by value.
        caption: What it is measured on.

    Raises:
        PmalError: If there are fewer than two points.
    """
    if len(points) < 2:
        raise PmalError(
            f"A figure of {parameter} needs at least two of its values. Received: "
            f"{len(points)}"
        )
    values = sorted({*(point.value for point in points), *(paper or {})}, key=_order)
    place = {value: position for position, value in enumerate(values)}
    figure = new_figure(4.2, 4.4 if paper else 3.0)
    rows = 2 if paper else 1
    all_axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    _draw_ours(all_axes[0], points, place)
    if paper:
        ordered = sorted(paper, key=_order)
        all_axes[1].plot(
            [place[value] for value in ordered],
            [paper[value] for value in ordered],
            # Between words there is nothing for a line to pass through.
            linestyle=LINES[1] if _are_numbers(ordered) else "none",
            marker=MARKERS[1],
            color=COLOURS[1],
        )
        all_axes[1].set_title(_PAPER)
        all_axes[1].set_ylabel("AUROC, %")
        tidy(all_axes[1])
    shown = [f"{v:g}" if _are_numbers([v]) else str(v) for v in values]
    all_axes[-1].set_xticks(range(len(values)), shown)
    symbol = SYMBOLS.get(parameter)
    label = parameter.replace("_", " ") + (f" {symbol}" if symbol else "")
    all_axes[-1].set_xlabel(label)
    counts = sorted({point.count for point in points})
    trials = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    noun = "trial" if trials == "1" else "trials"
    spread = " Bars: one standard deviation over trials." if counts[-1] > 1 else ""
    return save(
        figure,
        out,
        name,
        title=f"AUROC against {label}",
        caption=f"{caption} n = {trials} {noun} a point.{spread}".strip(),
    )


def _filled_rows(material: Material) -> Iterator[tuple[str, AblationTable]]:
    """Yields the rows of Table 5, of each set of runs that has some."""
    for number, table in enumerate(material.tables):
        if table.paper.setting is not None:
            yield f"{table.paper.name}_{number}", table


def _draw_row(table: AblationTable, out: Path, name: str) -> Drawn:
    """Draws a row of Table 5."""
    setting = str(table.paper.setting)
    rows = {{**BASE, **row.cell.overrides}[setting]: row for row in table.rows}
    measured = {value: row.values("dr.auroc") for value, row in rows.items()}
    return draw_sweep(
        *(setting, [SweepPoint.of(v, found) for v, found in measured.items() if found]),
        *(out, name),
        paper={value: row.cell.paper["auroc"] for value, row in rows.items()},
        caption=f"AUROC DR on {table.shared['dataset']}.",
    )


FIGURES = (OfAll(_filled_rows, _draw_row),)


def _draw_ours(
    axes: Axes, points: Sequence[SweepPoint], place: Mapping[Any, int]
) -> None:
    """Draws what was measured here."""
    ordered = sorted(points, key=lambda point: place[point.value])
    axes.errorbar(
        [place[point.value] for point in ordered],
        [100 * point.mean for point in ordered],
        # NaN draws no bar: one of length 0 would claim that trials agree.
        yerr=[
            math.nan if point.deviation is None else 100 * point.deviation
            for point in ordered
        ],
        linestyle=LINES[0] if _are_numbers(place) else "none",
        marker=MARKERS[0],
        color=COLOURS[0],
        capsize=3,
    )
    axes.set_title("measured here")
    axes.set_ylabel("AUROC, %")
    tidy(axes)


def _are_numbers(values: Iterable[Any]) -> bool:
    """Says whether all values are numbers; True and False are words."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool)
        for value in values
    )


def _order(value: Any) -> tuple[bool, float, str]:
    """Sorts numbers before words."""
    if _are_numbers([value]):
        return False, float(value), ""
    return True, 0.0, str(value)
