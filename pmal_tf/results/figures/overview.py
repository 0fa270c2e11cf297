"""A picture of one trial: the mined prototypes, and how far unknown images lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import OfTrial, Picture
from pmal_tf.results.figures.sheets import contact_sheet
from pmal_tf.results.scores.registry import scores_in

_BINS = 60


@style.in_style
def draw_overview(trial: Path) -> Picture:
    """Draws the scores of all test images, beside the mined prototypes if any."""
    result = read_result(trial)
    scores = style.read_arrays(trial / result["files"][result["method"]])
    prototypes = trial / "mining" / "prototypes.npz"
    if prototypes.exists():
        figure = Figure(figsize=(10, 4.2))
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_prototypes(left, prototypes, result["known"])
    else:
        figure = Figure(figsize=(4.8, 4.2))
        right = figure.subplots()
    _draw_scores(right, scores, result)
    return Picture(figure, "Prototypes and scores", f"{style.about_trial(trial)}.")


FIGURES = (OfTrial("overview", draw_overview),)


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
    for side, chosen in (("known", ~is_unknown), ("unknown", is_unknown)):
        if chosen.any():
            look: dict[str, Any] = {"label": f"{side} classes", "histtype": "step"}
            colour = style.COLOURS[side == "unknown"]
            axes.hist(score[chosen], bins, density=True, color=colour, **look)
    measured = metrics[own.field]
    title = f", AUROC {100 * measured['auroc']:.1f} %" if measured else ""
    axes.set_title(f"Test images{title}")
    axes.set_xlabel(f"{own.title}: {own.meaning}")
    axes.set_ylabel("density")
    axes.legend()
