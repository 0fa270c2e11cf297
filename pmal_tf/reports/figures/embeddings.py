"""Embeddings in two dimensions: of softmax and PMAL (Fig. 6), and by T (Fig. 5a)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.reports.figures.style import (
    COLOURS,
    GREY,
    MARKERS,
    Drawn,
    flatten,
    new_figure,
    save,
    some_rows,
    tidy,
)
from pmal_tf.workdir import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 600
_MOST_CLASSES = 10
_SCORES = {"softmax": "scores_softmax.npz", "pmal": "scores.npz"}
_TITLES = {"softmax": "softmax (M^1)", "pmal": "PMAL"}


def draw_embeddings(trial: Path, out: Path, name: str) -> Drawn:
    """Draws test images in the embeddings of softmax and of PMAL, as Fig. 6 does.

    Args:
        trial: An evaluated trial's folder.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If there are too few images.
    """
    figure = new_figure(8.4, 4.2)
    for axes, model in zip(figure.subplots(1, 2), _SCORES, strict=True):
        _draw_panel(axes, trial, model, with_unknown=True)
        axes.set_title(_TITLES[model])
    return save(
        figure,
        out,
        name,
        title="Embeddings of test images",
        caption=f"{_about(trial)} t-SNE of at most {_MOST_POINTS} images a panel; "
        f"unknown ones grey, prototypes as stars.{_without_stars(trial)}",
    )


def draw_prototype_number(trials: Sequence[Path], out: Path, name: str) -> Drawn:
    """Draws known test images by the number of prototypes trained with, as Fig. 5a.

    Args:
        trials: Folders of evaluated trials that differ in it.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If there are too few images.
    """
    figure = new_figure(4.2 * len(trials), 4.2)
    for axes, trial in zip(figure.subplots(1, len(trials)), trials, strict=True):
        _draw_panel(axes, trial, "pmal", with_unknown=False)
        number = read_json(trial / "config.json")["prototypes_per_class"]
        axes.set_title(f"T = {number}")
    return save(
        figure,
        out,
        name,
        title="Embeddings by the number of prototypes",
        caption=f"{_about(trials[0])} t-SNE of at most {_MOST_POINTS} known test "
        f"images a panel, prototypes as stars.{_without_stars(trials[0])}",
    )


def _about(trial: Path) -> str:
    """Says what a trial is of."""
    result = read_json(trial / "result.json")
    shown = len(result["known"][:_MOST_CLASSES])
    some = f", {shown} of {len(result['known'])} known classes"
    return (
        f"{result['dataset']}, protocol {result['protocol']}, trial {result['trial']}"
        f"{some if shown < len(result['known']) else ''}."
    )


def _without_stars(trial: Path) -> str:
    """Says that prototypes are missing in a picture, where they are."""
    if (trial / "prototype_embeddings.npz").exists():
        return ""
    return " This run is of a version that did not keep the prototypes' embeddings."


def _draw_panel(axes: Axes, trial: Path, model: str, *, with_unknown: bool) -> None:
    """Draws the embedding of one model."""
    names = read_json(trial / "result.json")["known"][:_MOST_CLASSES]
    with np.load(trial / _SCORES[model]) as scores:
        label, embedding = scores["class_index"], scores["embedding"]
    wanted = (label < len(names)) & (with_unknown | (label >= 0))
    rows = np.flatnonzero(wanted)
    rows = rows[some_rows(len(rows), _MOST_POINTS)]
    stars, star_class = _prototypes(trial, model, len(names), embedding.shape[1])
    # By angle, which is what the distances of the method go by.
    points = np.concatenate([embedding[rows], stars])
    length = np.linalg.norm(points, axis=1, keepdims=True)
    flat = flatten(points / np.maximum(length, 1e-12))
    flat, flat_stars = flat[: len(rows)], flat[len(rows) :]
    unknown = flat[label[rows] < 0]
    axes.scatter(unknown[:, 0], unknown[:, 1], s=6, color=GREY, alpha=0.5, label=None)
    for index, class_name in enumerate(names):
        colour = COLOURS[index % (len(COLOURS) - 1)]
        own = flat[label[rows] == index]
        axes.scatter(
            own[:, 0],
            own[:, 1],
            s=9,
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            linewidths=0,
            label=class_name,
        )
        star = flat_stars[star_class == index]
        axes.scatter(
            star[:, 0],
            star[:, 1],
            s=70,
            color=colour,
            marker="*",
            edgecolors="black",
            linewidths=0.6,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=6.5, markerscale=1.5, ncols=2)
    tidy(axes)
    axes.spines[:].set_visible(False)


def _prototypes(
    trial: Path, model: str, num_classes: int, dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [P, D] embeddings of prototypes and [P] classes; none where unknown."""
    path = trial / "prototype_embeddings.npz"
    if not path.exists():
        return np.zeros((0, dimension), np.float32), np.zeros(0, int)
    with np.load(path) as stored, np.load(trial / "mining" / "prototypes.npz") as mined:
        class_index = mined["class_index"]
        shown = class_index < num_classes
        return stored[model][shown], class_index[shown]
