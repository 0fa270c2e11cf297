"""What benchmarks measured, beside their references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmal_tf.errors import PmalError
from pmal_tf.reports.figures.style import COLOURS, Drawn, new_figure, save, tidy

_HEIGHT = 0.38


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
    figure = new_figure(6.4, 1.0 + 0.5 * len(entries))
    axes = tidy(figure.subplots())
    rows = np.arange(len(entries))
    for side, shift, hatch, colour in (
        ("ours", -_HEIGHT / 2, "", COLOURS[0]),
        ("reference", _HEIGHT / 2, "///", COLOURS[4]),
    ):
        axes.barh(
            rows + shift,
            [entry[side] for entry in entries],
            _HEIGHT,
            color=colour,
            hatch=hatch,
            label=side,
        )
    axes.set_yticks(
        rows, [f"{e['name']}: {e['value']:.3g} {e['unit']}".strip() for e in entries]
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("measured, in the unit of each benchmark")
    axes.legend(frameon=False)
    return save(
        figure,
        out,
        name,
        title="Costs",
        caption="Each pair was measured in one process; beside the name, the figure "
        "that the benchmark is there for.",
    )


def _comparable(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of a file that have numbers on both sides."""
    return [
        entry
        for entry in json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry.get(s), int | float) for s in ("ours", "reference"))
    ]
