"""A picture of one trial: the mined prototypes, and how far unknown images lie.

`python -m pmal_tf.results.figures.overview --trial=runs/cifar10_cpu/trial_0`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures import style
from pmal_tf.results.figures.sheets import contact_sheet
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_atomically

_BINS = 60


def draw_overview(trial: Path, out: Path) -> None:
    """Draws the scores of all test images, beside mined prototypes where there are any.

    Args:
        trial: A finished trial's run folder.
        out: The PNG or SVG file to write.

    Raises:
        PmalError: If the trial is not evaluated, or a file is damaged.
    """
    needed, result = trial / "result.json", {}
    if needed.exists():
        result = read_result(trial)
        needed = trial / result["files"][result["method"]]
    if not needed.exists():
        raise PmalError(
            f"`trial` must be the run folder of an evaluated trial. Received: {trial}, "
            f"without {needed}"
        )
    prototypes = trial / "mining" / "prototypes.npz"
    if prototypes.exists():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_prototypes(left, prototypes, result["known"])
    else:
        figure = Figure(figsize=(4.8, 4.2), layout="constrained")
        right = figure.subplots()
    _draw_scores(right, style.read_arrays(needed), result)
    write_atomically(out, lambda path: figure.savefig(path, dpi=110))


def _draw_prototypes(axes: Axes, path: Path, class_names: list[str]) -> None:
    """Shows one row of prototypes per class, in order of selection."""
    mined = style.read_arrays(path)
    class_index, image = mined["class_index"], mined["image"]
    per_class = np.bincount(class_index).max()
    rows = np.full((len(class_names), per_class, *image.shape[1:]), 255, np.uint8)
    for index, row in enumerate(rows):
        chosen = image[class_index == index]
        row[: len(chosen)] = chosen
    sheet = contact_sheet(np.concatenate(rows), columns=per_class, scale=2)
    axes.imshow(sheet, interpolation="nearest")
    style.without_axes(axes)
    step = sheet.shape[0] / len(class_names)
    axes.set_yticks(step * (np.arange(len(class_names)) + 0.5), class_names)
    axes.tick_params(length=0)
    axes.set_title("Mined prototypes, in order of selection")


def _draw_scores(
    axes: Axes, arrays: dict[str, np.ndarray], result: dict[str, Any]
) -> None:
    """Shows how the method's own score is distributed for known and unknown images."""
    metrics = result["models"][result["method"]]
    own = scores_in(metrics)[0]
    score, is_unknown = arrays[own.field], arrays["is_unknown"]
    bins = np.linspace(score.min(), score.max(), _BINS).tolist()
    for side, chosen, colour in (
        ("known", ~is_unknown, style.COLOURS[0]),
        ("unknown", is_unknown, style.COLOURS[1]),
    ):
        if chosen.any():
            axes.hist(
                score[chosen],
                bins,
                density=True,
                histtype="step",
                color=colour,
                label=f"{side} classes",
            )
    measured = metrics[own.field]
    title = f", AUROC {100 * measured['auroc']:.1f} %" if measured else ""
    axes.set_title(f"Test images{title}")
    axes.set_xlabel(f"{own.title}: {own.meaning}")
    axes.set_ylabel("density")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _main(argv: list[str]) -> None:
    """Draws the picture that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    try:
        draw_overview(Path(flags.FLAGS.trial), Path(flags.FLAGS.out))
    except PmalError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    flags.DEFINE_string("trial", None, "Run folder of a trial.", required=True)
    flags.DEFINE_string("out", "overview.png", "The picture to write.")
    app.run(_main)
