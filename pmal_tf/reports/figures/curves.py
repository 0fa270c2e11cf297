"""How well scores reject: ROC, OSCR, and the scores themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.errors import PmalError
from pmal_tf.evaluation.metrics import open_set_metrics
from pmal_tf.evaluation.scores import RULES
from pmal_tf.reports.figures.style import (
    COLOURS,
    GREY,
    LINES,
    Drawn,
    about_trial,
    new_figure,
    read_arrays,
    save,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILES = {
    "PMAL": "scores.npz",
    "control (M^1 trained on)": "scores_control.npz",
    "softmax (M^1)": "scores_softmax.npz",
}
_BINS = 60
Scores = dict[str, np.ndarray]


def draw_curves(trial: Path, out: Path, name: str) -> list[Drawn]:
    """Draws ROC curves, OSCR curves and histograms of the scores of a trial.

    Args:
        trial: An evaluated trial's folder.
        out: The folder of figures.
        name: How the stems of the files begin.

    Raises:
        PmalError: If no image is unknown.
    """
    models = {
        model: read_arrays(trial / file)
        for model, file in _FILES.items()
        if model == "PMAL" or (trial / file).exists()
    }
    scores = models["PMAL"]
    unknown = int(scores["is_unknown"].sum())
    known = len(scores["is_unknown"]) - unknown
    if not unknown or not known:
        raise PmalError(
            "Curves of rejection need known and unknown test images. Received: "
            f"{known} known, {unknown} unknown in {trial}"
        )
    about = f"{about_trial(trial)}: {known} known and {unknown} unknown test images."
    return [
        _draw_roc(models, out, name, about),
        _draw_oscr(models, out, name, about),
        _draw_histograms(models["PMAL"], out, name, about),
    ]


def roc_curve(scores: Scores, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shares of known and of unknown images rejected, both ascending."""
    from sklearn.metrics import roc_curve as sklearn_roc_curve

    false, true, _ = sklearn_roc_curve(scores["is_unknown"], scores[rule])
    return false, true


def oscr_curve(scores: Scores, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the OSCR curve, whose area by trapezoids is the OSCR.

    Args:
        scores: Arrays of a `scores.npz`.
        rule: Name of the score.

    Returns:
        Shares of unknown images accepted, and of known images accepted and right, both
        ascending from 0, one point per distinct score and the origin.
    """
    is_unknown, score = scores["is_unknown"], scores[rule]
    right = (scores["predicted"] == scores["class_index"]) & ~is_unknown
    # Equal scores are accepted together: the curve goes slantwise, ties count half.
    threshold = np.unique(score)
    accepted = np.searchsorted(np.sort(score[is_unknown]), threshold, side="right")
    correct = np.searchsorted(np.sort(score[right]), threshold, side="right")
    return (
        np.append(0.0, accepted / is_unknown.sum()),
        np.append(0.0, correct / (~is_unknown).sum()),
    )


def _metrics(scores: Scores, rule: str) -> dict[str, float]:
    """Returns the numbers of `result.json`."""
    is_unknown, score = scores["is_unknown"], scores[rule]
    correct = (scores["predicted"] == scores["class_index"])[~is_unknown]
    return open_set_metrics(score[~is_unknown], score[is_unknown], correct)


def _draw_roc(models: dict[str, Scores], out: Path, name: str, about: str) -> Drawn:
    """Draws a panel of ROC curves per rule."""
    figure = new_figure(8.4, 3.5)
    for axes, rule in zip(figure.subplots(1, len(RULES)), RULES, strict=True):
        for position, (model, scores) in enumerate(models.items()):
            area = 100 * _metrics(scores, rule)["auroc"]
            _plot(axes, *roc_curve(scores, rule), position, f"{model} {area:.1f}")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        _finish(axes, rule.upper(), "known rejected", "unknown rejected")
    caption = f"{about} In the legend, the area (AUROC) in percent."
    return save(figure, out, f"{name}_roc", title="ROC curves", caption=caption)


def _draw_oscr(models: dict[str, Scores], out: Path, name: str, about: str) -> Drawn:
    """Draws a panel of OSCR curves per rule."""
    figure = new_figure(8.4, 3.5)
    for axes, rule in zip(figure.subplots(1, len(RULES)), RULES, strict=True):
        for position, (model, scores) in enumerate(models.items()):
            area = 100 * _metrics(scores, rule)["oscr"]
            _plot(axes, *oscr_curve(scores, rule), position, f"{model} {area:.1f}")
        _finish(axes, rule.upper(), "unknown accepted", "known accepted and right")
    caption = f"{about} In the legend, the area (OSCR) in percent."
    return save(figure, out, f"{name}_oscr", title="OSCR curves", caption=caption)


def _draw_histograms(scores: Scores, out: Path, name: str, about: str) -> Drawn:
    """Draws the distribution of each score for known and unknown images."""
    figure = new_figure(8.4, 2.8)
    is_unknown = scores["is_unknown"]
    for axes, rule in zip(figure.subplots(1, len(RULES)), RULES, strict=True):
        score = scores[rule]
        bins = np.linspace(score.min(), score.max(), _BINS).tolist()
        for position, (side, chosen) in enumerate(
            (("known", ~is_unknown), ("unknown", is_unknown))
        ):
            # The known ones filled, the others a dashed line: overlaps stay legible.
            axes.hist(
                score[chosen],
                bins,
                density=True,
                histtype="step" if position else "stepfilled",
                color=COLOURS[position],
                alpha=None if position else 0.45,
                linestyle=LINES[position],
                label=side,
            )
        axes.set_xlabel(f"{rule.upper()}, larger is more likely unknown")
        axes.set_yticks([])
        axes.set_ylabel("density" if rule == RULES[0] else "")
        axes.legend(frameon=False, fontsize=7.5)
        tidy(axes)
    return save(
        figure,
        out,
        f"{name}_scores",
        title="Scores of known and unknown images (PMAL)",
        caption=about,
    )


def _plot(axes: Axes, x: np.ndarray, y: np.ndarray, position: int, label: str) -> None:
    """Draws a curve in its own colour and line style."""
    axes.plot(x, y, LINES[position], color=COLOURS[position], label=label)


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Labels a panel of shares."""
    axes.set_title(title)
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
