"""What benchmarks measured, beside their references."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmal_tf.results.figures.figure import Drawn, Material, OfAll
from pmal_tf.results.figures.style import COLOURS, GREY, LINES, new_figure, save, tidy
from pmal_tf.runtime.errors import PmalError

_CLOSE_TICKS = (0.1, 0.2, 0.5, 0.7, 1.0, 1.4, 2.0, 5.0, 10.0)
_MOST_DECADES = 8


def draw_benchmark_costs(files: Sequence[Path], out: Path, name: str) -> Drawn:
    """Draws each measurement with its reference, measured in the same process.

    Args:
        files: Written by `python -m pmal_tf.benchmark KIND --json=FILE`.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If a file is no list of measurements, or no entry has both sides.
    """
    entries = [entry for path in files for entry in _comparable(path)]
    if not entries:
        raise PmalError(
            "A figure of costs needs measurements with a reference. Received: none in "
            f"{', '.join(map(str, files)) or 'no files'}"
        )
    noun = "pair" if len(entries) == 1 else "pairs"
    figure = new_figure(7.2, 1.2 + 0.32 * len(entries))
    axes = tidy(figure.subplots())
    rows = np.arange(len(entries))
    # Units differ, so each pair is drawn in units of its reference; points, since bars
    # on a logarithmic axis would have lengths that mean nothing.
    share = np.array([entry["ours"] / entry["reference"] for entry in entries])
    axes.hlines(rows, np.minimum(share, 1.0), np.maximum(share, 1.0), color=GREY)
    axes.plot(share, rows, "o", color=COLOURS[0], label="ours")
    axes.axvline(1.0, color="black", linestyle=LINES[1], label="reference")
    axes.set_yticks(rows, _labels(entries))
    for row, entry in zip(rows.tolist(), entries, strict=True):
        at_the_right = axes.get_yaxis_transform()
        axes.text(
            1.02, row, _told(entry), va="center", fontsize=8, transform=at_the_right
        )
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = _limits(share)
    axes.set_xlim(low, high)
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("ours / reference")
    axes.legend(
        frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2
    )
    return save(
        figure,
        out,
        name,
        title="Costs",
        caption=f"{len(entries)} {noun}, each measured in one process; at the right, "
        "both as measured. To the left of the line ours is less: better for times and "
        "memory, worse for rates, as in xla_gain and pipeline_over_step.",
    )


def _files(material: Material) -> list[tuple[str, Sequence[Path]]]:
    """Returns the files as one subject, if there are any."""
    return [("costs", material.benchmarks)] if material.benchmarks else []


FIGURES = (OfAll(_files, draw_benchmark_costs),)


def _comparable(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a file that have numbers above 0 on both sides.

    Each is told the stem of its file, as `file`.
    """
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


def _labels(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the names of entries, with the file where several share a name."""
    count = Counter(entry["name"] for entry in entries)
    return [
        entry["name"] + (f" ({entry['file']})" if count[entry["name"]] > 1 else "")
        for entry in entries
    ]


def _told(entry: dict[str, Any]) -> str:
    """Returns both sides as measured, e.g. `2.96 / 2.47 ms`.

    The unit of an entry is that of its value. Where that is a ratio, files do not tell
    the unit of the two sides; the name does.
    """
    unit = "" if entry["unit"] == "ratio" else f" {entry['unit']}"
    return f"{_short(entry['ours'])} / {_short(entry['reference'])}{unit}"


def _short(value: float) -> str:
    """Returns a number of three digits or more, e.g. `0.0564` or `706,128`."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _limits(share: np.ndarray) -> tuple[float, float]:
    """Returns the ends of an axis that has room around all points and the 1."""
    logs = np.log(np.append(share, 1.0))
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
