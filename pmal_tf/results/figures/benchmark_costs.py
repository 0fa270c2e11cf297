"""What benchmarks measured, beside their references."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import Material, OfAll, Picture
from pmal_tf.runtime.errors import PmalError

_CLOSE_TICKS = (0.1, 0.2, 0.5, 0.7, 1.0, 1.4, 2.0, 5.0, 10.0)
_MOST_DECADES = 8


@style.in_style
def draw_benchmark_costs(files: Sequence[Path]) -> Picture:
    """Draws each measurement with its reference, measured in the same process.

    The files are what `python -m pmal_tf.benchmark KIND --json=FILE` writes.
    """
    entries = [entry for path in files for entry in _comparable(path)]
    if not entries:
        raise PmalError(
            "A figure of costs needs measurements with a reference. Received: none in "
            f"{', '.join(map(str, files)) or 'no files'}"
        )
    figure = Figure(figsize=(7.2, 1.2 + 0.32 * len(entries)))
    axes = figure.subplots()
    rows = np.arange(len(entries))
    # Units differ, so each pair is drawn in units of its reference; points, since bars
    # on a logarithmic axis would have lengths that mean nothing.
    ratio = np.array([entry["ours"] / entry["reference"] for entry in entries])
    axes.hlines(rows, np.minimum(ratio, 1.0), np.maximum(ratio, 1.0), color=style.GREY)
    axes.plot(ratio, rows, "o", color=style.COLOURS[0], label="ours")
    axes.axvline(1.0, color="black", linestyle=style.LINES[1], label="reference")
    # A name that several files have stands with its file.
    count = Counter(entry["name"] for entry in entries)
    names = [
        entry["name"] + (f" ({entry['file']})" if count[entry["name"]] > 1 else "")
        for entry in entries
    ]
    axes.set_yticks(rows, names)
    at_the_right = axes.get_yaxis_transform()
    for row, entry in zip(rows.tolist(), entries, strict=True):
        axes.text(
            1.02, row, _sides(entry), va="center", fontsize=8, transform=at_the_right
        )
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = _limits(ratio)
    axes.set_xlim(low, high)
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ours / reference")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    noun = "pair" if len(entries) == 1 else "pairs"
    caption = (
        f"{len(entries)} {noun}, each measured in one process; at the right, "
        "both as measured. To the left of the line ours is less: better for times and "
        "memory, worse for rates, as in xla_gain and pipeline_over_step."
    )
    return Picture(figure, "Costs", caption)


def _files(material: Material) -> list[tuple[str, Sequence[Path]]]:
    """Returns the files as one subject, if there are any."""
    return [("costs", material.benchmarks)] if material.benchmarks else []


FIGURES = (OfAll(_files, draw_benchmark_costs),)


def _comparable(path: Path) -> list[dict[str, Any]]:
    """Returns a file's entries with positive numbers on both sides, and its stem."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [
            {**entry, "file": path.stem}
            for entry in content
            if _is_positive(entry.get("ours")) and _is_positive(entry.get("reference"))
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise PmalError(
            "A figure of costs needs files that python -m pmal_tf.benchmark KIND "
            f"--json=FILE has written. Received: {path}: {error!r}"
        ) from error


def _is_positive(value: object) -> bool:
    """Says whether a value can stand on a logarithmic axis."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _sides(entry: dict[str, Any]) -> str:
    """Returns both sides as measured, e.g. `2.96 / 2.47 ms` or `706,128 / 2,342`.

    The unit of an entry is that of its value. Where that is a ratio, files do not tell
    the unit of the two sides; the name does.
    """
    both = (entry["ours"], entry["reference"])
    sides = " / ".join(f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in both)
    return sides if entry["unit"] == "ratio" else f"{sides} {entry['unit']}"


def _limits(ratio: np.ndarray) -> tuple[float, float]:
    """Returns the ends of an axis that has room around all points and the 1."""
    logs = np.log(np.append(ratio, 1.0))
    room = max(0.15, 0.05 * float(np.ptp(logs)))
    return math.exp(logs.min() - room), math.exp(logs.max() + room)


def _ticks(low: float, high: float) -> list[float]:
    """Returns values to mark: powers of 10 on a long axis, more on a short one."""
    if high / low < 20:
        return [tick for tick in _CLOSE_TICKS if low <= tick <= high]
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    # Counted from 1, which is always marked.
    step = -(-len(powers) // _MOST_DECADES)
    return [10.0**power for power in powers if power % step == 0]
