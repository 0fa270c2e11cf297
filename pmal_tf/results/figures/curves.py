"""How well scores reject: ROC, OSCR, and the scores themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import OfTrial, Picture
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError

_BINS = 60
_MOST_COLUMNS = 3
Scores = dict[str, np.ndarray]  # The arrays of a `scores.npz`.
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
    about, is_unknown = _about(trial, scores), scores["is_unknown"]
    figure, panels = _panels(scores_in(scores), 2.8)
    # The known ones filled, the others a dashed line: overlaps stay legible.
    filled = {"histtype": "stepfilled", "alpha": 0.45, "color": style.COLOURS[0]}
    dashed = {"histtype": "step", "linestyle": "--", "color": style.COLOURS[1]}
    for score, axes in panels.items():
        values = scores[score.field]
        bins = np.linspace(values.min(), values.max(), _BINS).tolist()
        axes.hist(values[~is_unknown], bins, density=True, label="known", **filled)
        axes.hist(values[is_unknown], bins, density=True, label="unknown", **dashed)
        axes.set_xlabel(f"{score.title}, larger is more likely unknown")
        axes.set_yticks([])
        axes.legend(fontsize=7.5)
    figure.supylabel("density", fontsize="medium")
    title = f"Scores of known and unknown images ({style.own_title(result)})"
    return Picture(figure, title, about)


FIGURES = (
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
