"""What benchmarks measured, beside their references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmal_tf.errors import PmalError
from pmal_tf.reports.figures.style import (
    COLOURS,
    GREY,
    LINES,
    Drawn,
    new_figure,
    save,
    tidy,
)

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 1, 1.4, 2, 5, 10, 20, 50, 100)


def draw_benchmark_costs(files: Sequence[Path], out: Path, name: str) -> Drawn:
    """Draws each measurement with its reference, measured in the same process.

    Args:
        files: Written by `python -m pmal_tf.benchmark KIND --json=FILE`.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If no entry has both sides.
    """
    entries = [entry for path in files for entry in _comparable(path)]
    if not entries:
        raise PmalError(
            "A figure of costs needs measurements with a reference. Received: none in "
            f"{', '.join(map(str, files)) or 'no files'}"
        )
    figure = new_figure(7.2, 1.2 + 0.32 * len(entries))
    axes = tidy(figure.subplots())
    rows = np.arange(len(entries))
    # Units differ, so each pair is drawn in units of its reference; points, since bars
    # on a logarithmic axis would have lengths that mean nothing.
    share = np.array([entry["ours"] / entry["reference"] for entry in entries])
    axes.hlines(rows, np.minimum(share, 1.0), np.maximum(share, 1.0), color=GREY)
    axes.plot(share, rows, "o", color=COLOURS[0], label="ours")
    axes.axvline(1.0, color="black", linestyle=LINES[1], label="reference")
    axes.set_yticks(rows, [e["name"] for e in entries])
    for row, entry in zip(rows.tolist(), entries, strict=True):
        told = f"{entry['ours']:.3g} / {entry['reference']:.3g}"
        at_the_right = axes.get_yaxis_transform()
        axes.text(1.02, row, told, va="center", fontsize=8, transform=at_the_right)
    axes.invert_yaxis()
    axes.set_xscale("log")
    reach = max(1.3, 1.15 * float(np.exp(np.abs(np.log(share)).max())))
    axes.set_xlim(1 / reach, reach)
    ticks = [tick for tick in _TICKS if 1 / reach <= tick <= reach]
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
        caption=f"{len(entries)} pairs, each measured in one process; at the right, "
        "both as measured. To the left of the line ours is less: better for times and "
        "memory, worse for rates, as in xla_gain and pipeline_over_step.",
    )


def _comparable(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a file that have numbers on both sides."""
    return [
        entry
        for entry in json.loads(path.read_text(encoding="utf-8"))
        if all(
            isinstance(entry.get(side), int | float) and entry[side] > 0
            for side in ("ours", "reference")
        )
    ]
