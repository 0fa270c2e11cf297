"""What benchmarks measured, beside their references."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import Material, OfAll, Picture
from pmal_tf.runtime.errors import PmalError

Entry = Mapping[str, Any]


@style.in_style
def draw_benchmark_costs(entries: Sequence[Entry]) -> Picture:
    """Draws each measurement with its reference, measured in the same process.

    The entries are of `python -m pmal_tf.benchmark KIND --json=FILE`, each with `file`;
    those without two positive numbers are left out.
    """
    pairs = [e for e in entries if _positive(e, "ours") and _positive(e, "reference")]
    if not pairs:
        files = dict.fromkeys(str(entry["file"]) for entry in entries)
        raise PmalError(
            "A figure of costs needs measurements with a reference. Received: none in "
            f"{', '.join(files)}"
        )
    figure = Figure(figsize=(7.2, 1.2 + 0.32 * len(pairs)))
    axes = figure.subplots()
    rows = np.arange(len(pairs))
    # Units differ, so each pair is drawn in units of its reference; points, since bars
    # on a logarithmic axis would have lengths that mean nothing.
    ratio = np.array([entry["ours"] / entry["reference"] for entry in pairs])
    axes.set_xscale("log")
    axes.hlines(rows, np.minimum(ratio, 1.0), np.maximum(ratio, 1.0), color=style.GREY)
    axes.plot(ratio, rows, "o", color=style.COLOURS[0], label="ours")
    axes.axvline(1.0, color="black", linestyle=style.LINES[1], label="reference")
    # A name that several files have stands with its file.
    count = Counter(entry["name"] for entry in pairs)
    names = [
        entry["name"] + (f" ({entry['file']})" if count[entry["name"]] > 1 else "")
        for entry in pairs
    ]
    axes.set_yticks(rows, names)
    at_the_right = axes.get_yaxis_transform()
    for row, entry in zip(rows.tolist(), pairs, strict=True):
        axes.text(
            1.02, row, _sides(entry), va="center", fontsize=8, transform=at_the_right
        )
    axes.invert_yaxis()
    # Room around all points and the 1; powers of 10 are marked, more on a short axis.
    logs = np.log(np.append(ratio, 1.0))
    room = max(0.15, 0.05 * float(np.ptp(logs)))
    low, high = math.exp(logs.min() - room), math.exp(logs.max() + room)
    axes.set_xlim(low, high)
    marks = (1.0, 2.0, 5.0) if high / low < 50 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=marks, numticks=10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("ours / reference")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    noun = "pair" if len(pairs) == 1 else "pairs"
    caption = (
        f"{len(pairs)} {noun}, each measured in one process; at the right, "
        "both as measured. To the left of the line ours is less: better for times and "
        "memory, worse for rates, as in xla_gain and pipeline_over_step."
    )
    return Picture(figure, "Costs", caption)


def _all(material: Material) -> list[tuple[str, Sequence[Entry]]]:
    """Returns the entries as one subject, if there are any."""
    return [("costs", material.benchmarks)] if material.benchmarks else []


FIGURES = (OfAll(_all, draw_benchmark_costs),)


def _positive(entry: Entry, side: str) -> bool:
    """Says whether a side can stand on a logarithmic axis."""
    value = entry.get(side)
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _sides(entry: Entry) -> str:
    """Returns both sides as measured, e.g. `2.96 / 2.47 ms` or `706,128 / 2,342`.

    The unit of an entry is that of its value. Where that is a ratio, files do not say
    the unit of the two sides; the name does.
    """
    both = (entry["ours"], entry["reference"])
    sides = " / ".join(f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in both)
    return sides if entry["unit"] == "ratio" else f"{sides} {entry['unit']}"
