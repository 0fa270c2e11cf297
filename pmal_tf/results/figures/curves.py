"""How well scores reject: ROC, OSCR, the scores themselves, and beside prototypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError

_BINS = 60
_MOST_COLUMNS = 3
Scores = dict[str, np.ndarray]  # The arrays of a `scores.npz`, by name.
Points = tuple[np.ndarray, np.ndarray]


@style.in_style
def draw_roc(trial: Path) -> Picture:
    """Draws a panel of ROC curves per score."""
    labels = {"xlabel": "known rejected", "ylabel": "unknown rejected"}
    picture = _draw_curves(trial, roc_curve, "AUROC", labels)
    for axes in picture.figure.axes:
        axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8)
    return picture


@style.in_style
def draw_oscr(trial: Path) -> Picture:
    """Draws a panel of OSCR curves per score."""
    labels = {"xlabel": "unknown accepted", "ylabel": "known accepted and right"}
    return _draw_curves(trial, oscr_curve, "OSCR", labels)


@style.in_style
def draw_histograms(trial: Path) -> Picture:
    """Draws how each score is distributed, for known and for unknown images."""
    result = read_result(trial)
    scores = style.read_arrays(trial / result["files"][result["method"]])
    about = _about(trial, scores)
    figure, panels = _panels(scores_in(scores), 2.8)
    for score, axes in panels.items():
        _draw_histogram(axes, score, scores)
        axes.set_xlabel(score.title)
        axes.set_yticks([])
    figure.supxlabel("larger is more likely unknown", fontsize="medium")
    figure.supylabel("density", fontsize="medium")
    title = f"Scores of known and unknown images ({style.own_title(result)})"
    return Picture(figure, title, about)


@style.in_style
def draw_overview(trial: Path) -> Picture:
    """Draws the method's own score of test images, beside mined prototypes if any."""
    result = read_result(trial)
    scores = style.read_arrays(trial / result["files"][result["method"]])
    prototypes = trial / "mining" / "prototypes.npz"
    if prototypes.exists():
        figure = Figure(figsize=(10, 4.2))
        left, axes = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_prototypes(left, style.read_arrays(prototypes), result["known"])
    else:
        figure = Figure(figsize=(4.8, 4.2))
        axes = figure.subplots()
    metrics = result["models"][result["method"]]
    own = scores_in(metrics)[0]
    _draw_histogram(axes, own, scores)
    measured = metrics[own.field]
    title = f", AUROC {100 * measured['auroc']:.1f} %" if measured else ""
    axes.set_title(f"Test images{title}")
    axes.set_xlabel(f"{own.title}: {own.meaning}")
    axes.set_ylabel("density")
    return Picture(figure, "Prototypes and scores", f"{style.about_trial(trial)}.")


FIGURES = (
    OfTrial("overview", draw_overview),
    OfTrial("roc", draw_roc),
    OfTrial("oscr", draw_oscr),
    OfTrial("scores", draw_histograms),
)


def roc_curve(scores: Scores, field: str) -> Points:
    """Returns the shares of known and of unknown images rejected, both ascending."""
    from sklearn.metrics import roc_curve as sklearn_roc_curve

    false, true, _ = sklearn_roc_curve(scores["is_unknown"], scores[field])
    return false, true


def oscr_curve(scores: Scores, field: str) -> Points:
    """Returns the OSCR curve, whose area by trapezoids is the OSCR.

    Returns:
        Shares of unknown images accepted, and of known images accepted and right, both
        ascending from 0, one point per distinct score and the origin.
    """
    is_unknown, score = scores["is_unknown"], scores[field]
    right = (scores["predicted"] == scores["class_index"]) & ~is_unknown
    # Equal scores are accepted together: the curve goes slantwise, ties count half.
    threshold = np.unique(score)
    accepted = np.searchsorted(np.sort(score[is_unknown]), threshold, side="right")
    correct = np.searchsorted(np.sort(score[right]), threshold, side="right")
    return (
        np.append(0.0, accepted / is_unknown.sum()),
        np.append(0.0, correct / (~is_unknown).sum()),
    )


def _draw_curves(
    trial: Path,
    curve: Callable[[Scores, str], Points],
    area: str,
    labels: Mapping[str, str],
) -> Picture:
    """Draws the curves of every model; `area` is the metric that is the area below."""
    result = read_result(trial)
    own, files = result["method"], result["files"]
    models = {
        model: style.read_arrays(trial / files[model])
        for model in result["models"]
        if model == own or (trial / files[model]).exists()
    }
    about = _about(trial, models[own])
    names = dict.fromkeys(name for arrays in models.values() for name in arrays)
    figure, panels = _panels(scores_in(names), 3.5)
    for score, axes in panels.items():
        axes.set_title(score.title)
        for position, (model, scores) in enumerate(models.items()):
            if score.field not in scores:
                continue
            percent = 100 * result["models"][model][score.field][area.lower()]
            axes.plot(
                *curve(scores, score.field),
                style.LINES[position % len(style.LINES)],
                color=style.COLOURS[position % len(style.COLOURS)],
                label=f"{result['titles'].get(model, model)} {percent:.1f}",
            )
        axes.set(**labels, xlim=(0, 1), ylim=(0, 1), aspect="equal")
        # Below the axes: inside, it would lie on the curves of a weak score.
        axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    caption = f"{about} In the legend, the area ({area}) in percent."
    return Picture(figure, f"{area.removeprefix('AU')} curves", caption)


def _draw_histogram(axes: Axes, score: Score, scores: Scores) -> None:
    """Draws known images filled, unknown ones a dashed line: overlaps stay legible."""
    values, is_unknown = scores[score.field], scores["is_unknown"]
    bins = np.linspace(values.min(), values.max(), _BINS).tolist()
    sides: list[tuple[np.ndarray, dict[str, Any]]] = [
        (~is_unknown, {"label": "known", "histtype": "stepfilled", "alpha": 0.45}),
        (is_unknown, {"label": "unknown", "histtype": "step", "linestyle": "--"}),
    ]
    for (chosen, look), colour in zip(sides, style.COLOURS, strict=False):
        if chosen.any():
            axes.hist(values[chosen], bins, density=True, color=colour, **look)
    axes.legend(fontsize=7.5)


def _draw_prototypes(axes: Axes, mined: Scores, class_names: list[str]) -> None:
    """Shows one row of prototypes per class, in order of selection."""
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


def _about(trial: Path, scores: Scores) -> str:
    """Says what curves are of; raises a PmalError where a side has no images."""
    unknown = int(scores["is_unknown"].sum())
    known = len(scores["is_unknown"]) - unknown
    if not known or not unknown:
        raise PmalError(
            "Curves of rejection need known and unknown test images. Received: "
            f"{known} known, {unknown} unknown in {trial}"
        )
    about = style.about_trial(trial)
    return f"{about}: {known} known and {unknown} unknown test images."


def _panels(scores: Sequence[Score], height: float) -> tuple[Figure, dict[Score, Any]]:
    """Returns a figure with a panel for each score, a row `height` inches high."""
    columns = min(len(scores), _MOST_COLUMNS)
    rows = -(-len(scores) // columns)
    figure = Figure(figsize=(2.8 * columns, height * rows))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(scores) :]:
        axes.remove()
    return figure, dict(zip(scores, panels, strict=False))
