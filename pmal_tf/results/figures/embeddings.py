"""Embeddings in two dimensions: of two methods (Fig. 6), and by T (Fig. 5a)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.preprocessing import normalize

from pmal_tf.results.collect.ablation_tables import BESIDE
from pmal_tf.results.collect.run_folders import read_result, settings_of
from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import Material, OfAll, OfTrial, Picture
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json

_MOST_POINTS = 600  # Of a panel, prototypes included.
_MOST_CLASSES = 10
_PROTOTYPES = "prototype_embeddings.npz"
# Fig. 5a compares these numbers of prototypes.
_NUMBERS = (1, 10)
_NUMBER = "prototypes_per_class"


@style.in_style
def draw_embeddings(trial: Path) -> Picture:
    """Draws test images in the embeddings of two methods, as Fig. 6 does.

    They are the first of those judged beside the trial's own, and its own.
    """
    result = read_result(trial)
    own = result["method"]
    beside = [model for model in result["models"] if model != own]
    if not beside:
        raise PmalError(
            "A figure of embeddings needs two methods. Received: "
            f"{style.own_title(result)} alone in {trial}. Run with another in "
            "--compare."
        )
    figure = Figure(figsize=(8.4, 4.8))
    for axes, model in zip(figure.subplots(1, 2), (beside[0], own), strict=True):
        shown = _draw_panel(axes, trial, model, with_unknown=True)
        axes.set_title(result["titles"].get(model, model), fontsize=12)
    _add_legend(figure)
    caption = (
        f"{_about(trial)} t-SNE by angle of {shown} in each panel; unknown "
        f"ones grey{_on_stars(trial)}"
    )
    return Picture(figure, "Embeddings of test images", caption)


@style.in_style
def draw_prototype_number(trials: Sequence[Path]) -> Picture:
    """Draws known test images by the number of prototypes trained with, as Fig. 5a."""
    figure = Figure(figsize=(4.2 * len(trials), 4.8))
    for axes, trial in zip(figure.subplots(1, len(trials)), trials, strict=True):
        own = read_result(trial)["method"]
        shown = _draw_panel(axes, trial, own, with_unknown=False)
        number = read_json(trial / "config.json")[_NUMBER]
        axes.set_title(f"T = {number}\n{shown}", fontsize=12)
    _add_legend(figure)
    about = " | ".join(map(_about, trials))
    caption = f"{about} t-SNE by angle{_on_stars(*trials)}"
    return Picture(figure, "Embeddings by the number of prototypes", caption)


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


def chosen_images(
    label: np.ndarray, num_classes: int, most: int, *, with_unknown: bool
) -> np.ndarray:
    """Returns positions of the images to show, in order, drawn by a fixed seed.

    A half of them is unknown, the other half of the classes evenly: drawn from all,
    there would be nearly nothing but grey where many more images are unknown. `label`
    is -1 for unknown images; classes after the first `num_classes` are left out.
    """
    known = most // 2 if with_unknown else most
    chosen = []
    for group in range(-1, num_classes):
        share = most - known if group < 0 else known // num_classes
        own = np.flatnonzero(label == group)
        chosen.append(own[style.some_rows(len(own), share)])
    return np.sort(np.concatenate(chosen))


def _draw_panel(axes: Axes, trial: Path, model: str, *, with_unknown: bool) -> str:
    """Draws the embedding of one model, and says what of."""
    result = read_result(trial)
    names, file = result["known"][:_MOST_CLASSES], trial / result["files"][model]
    scores = style.read_arrays(file)
    if "embedding" not in scores:
        raise PmalError(
            "A figure of embeddings needs methods that have them. Received: "
            f"{result['titles'].get(model, model)}, of which {file} keeps none"
        )
    stars, star_class = _prototypes(trial, model, len(names))
    most = max(_MOST_POINTS - len(star_class), _MOST_POINTS // 2)
    label = scores["class_index"]
    rows = chosen_images(label, len(names), most, with_unknown=with_unknown)
    label, points = label[rows], scores["embedding"][rows]
    if len(star_class):
        points = np.concatenate([points, stars])
    # By angle, which is what the distances of the method go by.
    flat = style.flatten(normalize(points))
    flat, flat_stars = flat[: len(rows)], flat[len(rows) :]
    unknown = flat[label < 0]
    if len(unknown):
        grey = {"alpha": 0.5, "linewidths": 0, "label": "unknown"}
        style.scatter(axes, unknown, 6, style.GREY, **grey)
    for index, class_name in enumerate(names):
        colour = style.COLOURS[index % (len(style.COLOURS) - 1)]
        look = {"marker": style.MARKERS[index], "linewidths": 0, "label": class_name}
        style.scatter(axes, flat[label == index], 9, colour, **look)
        look = {"marker": "*", "edgecolors": "black", "linewidths": 0.6}
        style.scatter(axes, flat_stars[star_class == index], 70, colour, **look)
    if len(star_class):
        look = {"marker": "*", "edgecolors": "black", "label": "prototype"}
        style.scatter(axes, np.zeros((0, 2)), 70, "white", **look)
    style.without_axes(axes)
    known = f"{len(rows) - len(unknown)} known"
    unknown_too = f" and {len(unknown)} unknown" if with_unknown else ""
    return f"{known}{unknown_too} test images"


def _prototypes(
    trial: Path, model: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [P, D] embeddings of prototypes and [P] classes; none where unknown."""
    path = trial / _PROTOTYPES
    embeddings = style.read_arrays(path) if path.exists() else {}
    if model not in embeddings:
        return np.zeros((0, 0)), np.zeros(0, int)
    class_index = style.read_arrays(trial / "mining" / "prototypes.npz")["class_index"]
    shown = class_index < num_classes
    return embeddings[model][shown], class_index[shown]


def _about(trial: Path) -> str:
    """Says what a trial is of, and of how many of its classes images are shown."""
    known = len(read_result(trial)["known"])
    some = f", {_MOST_CLASSES} of {known} known classes"
    return f"{style.about_trial(trial)}{some if known > _MOST_CLASSES else ''}."


def _on_stars(*trials: Path) -> str:
    """Ends a caption: says what stars are, where there are any."""
    any_kept = any((trial / _PROTOTYPES).exists() for trial in trials)
    return ", prototypes as stars." if any_kept else "."


def _add_legend(figure: Figure) -> None:
    """Puts one legend under all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = min(len(labels), 6)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
