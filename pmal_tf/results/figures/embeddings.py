"""Embeddings in two dimensions: of two methods (Fig. 6), and by T (Fig. 5a)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmal_tf.results.collect.ablation_tables import BESIDE
from pmal_tf.results.collect.run_folders import read_result, settings_of
from pmal_tf.results.figures.figure import Drawn, Material, OfAll, OfTrial
from pmal_tf.results.figures.style import (
    COLOURS,
    GREY,
    MARKERS,
    about_trial,
    flatten,
    new_figure,
    own_title,
    read_arrays,
    rows_by_group,
    save,
    tidy,
)
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 600  # Of a panel, prototypes included.
_UNKNOWN = -1
_MOST_CLASSES = 10
# Fig. 5a compares these numbers of prototypes.
_NUMBERS = (1, 10)
_NUMBER = "prototypes_per_class"


def draw_embeddings(trial: Path, out: Path, name: str) -> Drawn:
    """Draws test images in the embeddings of two methods, as Fig. 6 does.

    They are the first of those judged beside the trial's own, and its own.

    Args:
        trial: An evaluated trial's folder.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If there are too few images, no method to compare with, or one
            without embeddings.
    """
    result = read_result(trial)
    own = result["method"]
    beside = [model for model in result["models"] if model != own]
    if not beside:
        raise PmalError(
            "A figure of embeddings needs two methods. Received: "
            f"{own_title(result)} alone in {trial}. Run with another in --compare."
        )
    figure = new_figure(8.4, 4.8)
    for axes, model in zip(figure.subplots(1, 2), (beside[0], own), strict=True):
        shown = _draw_panel(axes, trial, model, with_unknown=True)
        axes.set_title(result["titles"].get(model, model))
    _add_legend(figure)
    return save(
        figure,
        out,
        name,
        title="Embeddings of test images",
        caption=f"{_about(trial)} t-SNE by angle of {shown} in each panel; unknown "
        f"ones grey{_on_stars(trial)}",
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
    figure = new_figure(4.2 * len(trials), 4.8)
    for axes, trial in zip(figure.subplots(1, len(trials)), trials, strict=True):
        own = read_result(trial)["method"]
        shown = _draw_panel(axes, trial, own, with_unknown=False)
        number = read_json(trial / "config.json")["prototypes_per_class"]
        axes.set_title(f"T = {number}\n{shown}")
    _add_legend(figure)
    return save(
        figure,
        out,
        name,
        title="Embeddings by the number of prototypes",
        caption=f"{' | '.join(map(_about, trials))} t-SNE by angle{_on_stars(*trials)}",
    )


def _pairs_by_number(material: Material) -> list[tuple[str, list[Path]]]:
    """Returns first trials of experiments that differ in the number of prototypes."""
    groups: dict[str, dict[int, tuple[str, Path]]] = {}
    for name, trials in material.experiments.items():
        settings = _settings(trials[0])
        number = settings.pop(_NUMBER, None)
        if number in _NUMBERS:
            group = groups.setdefault(str(sorted(settings.items())), {})
            group[number] = (name, trials[0])
    return [
        (f"{group[_NUMBERS[1]][0]}_prototype_number", [group[n][1] for n in _NUMBERS])
        for group in groups.values()
        if set(_NUMBERS) <= set(group)
    ]


def _settings(trial: Path) -> dict[str, Any]:
    """Returns the settings that a trained model depends on, and its trial.

    None at all where a record is missing or damaged: then nobody knows what the trial
    may stand beside.
    """
    try:
        settings = {**settings_of(trial), "trial": trial.name}
    except (FileNotFoundError, PmalError):
        return {}
    return {n: value for n, value in settings.items() if n not in BESIDE}


FIGURES = (
    OfTrial("embeddings", draw_embeddings),
    OfAll(_pairs_by_number, draw_prototype_number),
)


def _about(trial: Path) -> str:
    """Says what a trial is of."""
    result = read_result(trial)
    shown = len(result["known"][:_MOST_CLASSES])
    some = f", {shown} of {len(result['known'])} known classes"
    return f"{about_trial(trial)}{some if shown < len(result['known']) else ''}."


def _on_stars(*trials: Path) -> str:
    """Ends a caption: says where prototypes are shown, and why they are not."""
    kept = [(trial / "prototype_embeddings.npz").exists() for trial in trials]
    text = ", prototypes as stars." if any(kept) else "."
    mined = [(trial / "mining").exists() for trial in trials]
    if any(each and not shown for each, shown in zip(mined, kept, strict=True)):
        text += " The version that ran this did not keep the prototypes' embeddings."
    return text


def _shares(most: int, num_classes: int, *, with_unknown: bool) -> dict[int, int]:
    """Deals points out: a half to unknown images, the other to the classes evenly.

    Drawn at random from all, of a benchmark with many more unknown images there would
    be nearly nothing but grey.
    """
    known = most // 2 if with_unknown else most
    shares = dict.fromkeys(range(num_classes), known // num_classes)
    return {_UNKNOWN: most - known, **shares} if with_unknown else shares


def _add_legend(figure: Figure) -> None:
    """Puts one legend under all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 6),
        frameon=False,
        fontsize=8,
    )


def _draw_panel(axes: Axes, trial: Path, model: str, *, with_unknown: bool) -> str:
    """Draws the embedding of one model, and says what of."""
    result = read_result(trial)
    names, file = result["known"][:_MOST_CLASSES], trial / result["files"][model]
    scores = read_arrays(file)
    if "embedding" not in scores:
        raise PmalError(
            "A figure of embeddings needs methods that have them. Received: "
            f"{result['titles'].get(model, model)}, of which {file} keeps none"
        )
    label, embedding = scores["class_index"], scores["embedding"]
    stars, star_class = _prototypes(trial, model, len(names), embedding.shape[1])
    most = max(_MOST_POINTS - len(stars), _MOST_POINTS // 2)
    shares = _shares(most, len(names), with_unknown=with_unknown)
    rows = rows_by_group(label, shares)
    # By angle, which is what the distances of the method go by.
    points = np.concatenate([embedding[rows], stars])
    length = np.linalg.norm(points, axis=1, keepdims=True)
    flat = flatten(points / np.maximum(length, 1e-12))
    flat, flat_stars = flat[: len(rows)], flat[len(rows) :]
    unknown = flat[label[rows] < 0]
    if len(unknown):
        axes.scatter(
            unknown[:, 0],
            unknown[:, 1],
            s=6,
            color=GREY,
            alpha=0.5,
            linewidths=0,
            label="unknown",
        )
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
    if len(stars):
        axes.scatter(
            [], [], s=70, color="white", marker="*", ec="black", label="prototype"
        )
    tidy(axes)
    axes.spines[:].set_visible(False)
    counts = [f"{len(rows) - len(unknown)} known"]
    counts += [f"{len(unknown)} unknown"] if with_unknown else []
    return f"{' and '.join(counts)} test images"


def _prototypes(
    trial: Path, model: str, num_classes: int, dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [P, D] embeddings of prototypes and [P] classes; none where unknown."""
    path = trial / "prototype_embeddings.npz"
    embeddings = read_arrays(path) if path.exists() else {}
    if model not in embeddings:
        return np.zeros((0, dimension), np.float32), np.zeros(0, int)
    class_index = read_arrays(trial / "mining" / "prototypes.npz")["class_index"]
    shown = class_index < num_classes
    return embeddings[model][shown], class_index[shown]
