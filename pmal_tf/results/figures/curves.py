"""How well scores reject: ROC, OSCR, and the scores themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures.figure import Drawn, OfTrial
from pmal_tf.results.figures.style import (
    COLOURS,
    GREY,
    LINES,
    about_trial,
    new_figure,
    own_title,
    read_arrays,
    save,
    tidy,
)
from pmal_tf.results.metrics import open_set_metrics
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 60
_MOST_COLUMNS = 3
Scores = dict[str, np.ndarray]
Curve = Callable[[Scores, str], tuple[np.ndarray, np.ndarray]]


def draw_roc(trial: Path, out: Path, name: str) -> Drawn:
    """Draws a panel of ROC curves per score.

    Args:
        trial: An evaluated trial's folder.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If no image is unknown, or none known.
    """
    figure, about = _draw_curves(trial, roc_curve, "auroc")
    for axes in figure.axes:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        _finish(axes, "known rejected", "unknown rejected")
    caption = f"{about} In the legend, the area (AUROC) in percent."
    return save(figure, out, name, title="ROC curves", caption=caption)


def draw_oscr(trial: Path, out: Path, name: str) -> Drawn:
    """Draws a panel of OSCR curves per score; see `draw_roc`."""
    figure, about = _draw_curves(trial, oscr_curve, "oscr")
    for axes in figure.axes:
        _finish(axes, "unknown accepted", "known accepted and right")
    caption = f"{about} In the legend, the area (OSCR) in percent."
    return save(figure, out, name, title="OSCR curves", caption=caption)


def draw_histograms(trial: Path, out: Path, name: str) -> Drawn:
    """Draws how each score is distributed, for known and unknown; see `draw_roc`."""
    result = read_result(trial)
    scores = read_arrays(trial / result["files"][result["method"]])
    about, is_unknown = _about(trial, scores), scores["is_unknown"]
    figure, panels = _panels(scores_in(scores), 2.8)
    for score, axes in panels.items():
        values = scores[score.field]
        bins = np.linspace(values.min(), values.max(), _BINS).tolist()
        for position, (side, chosen) in enumerate(
            (("known", ~is_unknown), ("unknown", is_unknown))
        ):
            # The known ones filled, the others a dashed line: overlaps stay legible.
            axes.hist(
                values[chosen],
                bins,
                density=True,
                histtype="step" if position else "stepfilled",
                color=COLOURS[position],
                alpha=None if position else 0.45,
                linestyle=LINES[position],
                label=side,
            )
        axes.set_xlabel(f"{score.title}, larger is more likely unknown")
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=7.5)
        tidy(axes)
    figure.supylabel("density", fontsize=9)
    title = f"Scores of known and unknown images ({own_title(result)})"
    return save(figure, out, name, title=title, caption=about)


FIGURES = (
    OfTrial("roc", draw_roc),
    OfTrial("oscr", draw_oscr),
    OfTrial("scores", draw_histograms),
)


def roc_curve(scores: Scores, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shares of known and of unknown images rejected, both ascending."""
    from sklearn.metrics import roc_curve as sklearn_roc_curve

    false, true, _ = sklearn_roc_curve(scores["is_unknown"], scores[field])
    return false, true


def oscr_curve(scores: Scores, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the OSCR curve, whose area by trapezoids is the OSCR.

    Args:
        scores: Arrays of a `scores.npz`.
        field: That of the score.

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


def _draw_curves(trial: Path, curve: Curve, area: str) -> tuple[Figure, str]:
    """Draws the curves of every model, and says what they are of.

    Args:
        trial: The trial's folder.
        curve: Returns the points of a curve.
        area: The metric that is the area below it.
    """
    result = read_result(trial)
    own, files = result["method"], result["files"]
    models = {
        model: read_arrays(trial / files[model])
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
            percent = 100 * _metrics(scores, score.field)[area]
            axes.plot(
                *curve(scores, score.field),
                LINES[position % len(LINES)],
                color=COLOURS[position % len(COLOURS)],
                label=f"{result['titles'].get(model, model)} {percent:.1f}",
            )
    return figure, about


def _about(trial: Path, scores: Scores) -> str:
    """Says which images are shown.

    Raises:
        PmalError: If no image is unknown, or none known.
    """
    unknown = int(scores["is_unknown"].sum())
    known = len(scores["is_unknown"]) - unknown
    if not unknown or not known:
        raise PmalError(
            "Curves of rejection need known and unknown test images. Received: "
            f"{known} known, {unknown} unknown in {trial}"
        )
    return f"{about_trial(trial)}: {known} known and {unknown} unknown test images."


def _panels(
    scores: tuple[Score, ...], height: float
) -> tuple[Figure, Mapping[Score, Axes]]:
    """Returns a figure with a panel for each score, and the panels.

    Args:
        scores: The scores.
        height: Of a row of panels, in inches.
    """
    columns = min(len(scores), _MOST_COLUMNS)
    rows = -(-len(scores) // columns)
    figure = new_figure(2.8 * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(scores) :]:
        axes.remove()
    return figure, dict(zip(scores, panels, strict=False))


def _metrics(scores: Scores, field: str) -> dict[str, float]:
    """Returns the numbers of `result.json`."""
    is_unknown, score = scores["is_unknown"], scores[field]
    correct = (scores["predicted"] == scores["class_index"])[~is_unknown]
    return open_set_metrics(score[~is_unknown], score[is_unknown], correct)


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels a panel of shares."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    # Below the axes: inside, it would lie on the curves of a weak score.
    axes.legend(
        frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.22)
    )
    tidy(axes)
