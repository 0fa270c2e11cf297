"""Prototypes of repeated mining in one embedding, as Fig. 4b shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics.pairwise import cosine_distances
from sklearn.preprocessing import normalize

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import OfTrial, Picture
from pmal_tf.runtime.errors import PmalError

_MOST_POINTS = 600
_DRAWS = 200


@style.in_style
def draw_repeated_mining(trial: Path, class_index: int = 0) -> Picture:
    """Draws the prototypes of a class by repetition of mining.

    All stand where M^1 embeds them; repetitions chose them with other classifiers.
    """
    mining = style.mining_of(trial)
    repeats = sorted(
        mining.glob("repeat_*/prototypes.npz"),
        key=lambda path: int(path.parent.name.removeprefix("repeat_")),
    )
    if not repeats:
        raise PmalError(
            "A figure of repeated mining needs repetitions. Received: none in "
            f"{mining}. Run with --mining_repeats=2."
        )
    stored = style.read_arrays(mining / "robustness.npz")
    own = style.images_of_class(stored["class_index"], class_index, trial)
    ids = stored["example_id"][own]
    embedding = np.load(mining / "embedding_0.npy", mmap_mode="r")[own]
    files = (mining / "prototypes.npz", *repeats)
    chosen = [_positions(path, ids, class_index) for path in files]
    shown = shown_rows(len(ids), np.unique(np.concatenate(chosen)))
    # An embedding of zeros has no direction: it keeps its zeros, at distance 1 of all.
    directions = normalize(embedding)
    flat = style.flatten(directions[shown])
    figure = Figure(figsize=(5.4, 4.4))
    axes = figure.subplots()
    style.scatter(axes, flat, 6, style.GREY, alpha=0.5, linewidths=0)
    for repeat, rows in enumerate(chosen):
        style.scatter(
            axes,
            flat[np.searchsorted(shown, rows)],
            45,
            style.COLOURS[repeat % len(style.COLOURS)],
            marker=style.MARKERS[repeat % len(style.MARKERS)],
            edgecolors="black",
            linewidths=0.5,
            label=f"repetition {repeat}" if repeat else "mining",
        )
    axes.legend(fontsize=10)
    style.without_axes(axes)
    class_name = read_result(trial)["known"][class_index]
    return Picture(
        figure,
        f"Prototypes of {class_name} over repeated mining",
        f"{style.about_trial(trial)}. {_distances(directions, chosen, class_name)}",
    )


FIGURES = (OfTrial("repeated_mining", draw_repeated_mining),)


def shown_rows(count: int, needed: np.ndarray, most: int = _MOST_POINTS) -> np.ndarray:
    """Returns which of `count` images to show, in order; others are drawn at random.

    `needed` ones are shown in any case, even if there are more than `most`.
    """
    others = np.setdiff1d(np.arange(count), needed)
    drawn = others[style.some_rows(len(others), max(0, most - len(needed)))]
    return np.union1d(needed, drawn)


def _distances(directions: np.ndarray, chosen: list[np.ndarray], name: str) -> str:
    """Says how far repetitions are, against images drawn at random."""
    first, rng = chosen[0], np.random.default_rng(0)
    drawn = [
        rng.choice(len(directions), len(first), replace=False) for _ in range(_DRAWS)
    ]
    repeated, at_random = (
        [
            cosine_distances(directions[rows], directions[first]).min(axis=1).mean()
            for rows in group
        ]
        for group in (chosen[1:], drawn)
    )
    shared = [str(len(np.intersect1d(rows, first))) for rows in chosen[1:]]
    return (
        f"{len(directions)} training images of {name} in the embedding of M^1. "
        f"Mean cosine distance of a repetition's prototypes to the nearest of mining: "
        f"{' and '.join(f'{value:.3f}' for value in repeated)}; of as many random "
        f"images of the class {np.mean(at_random):.3f} "
        f"(sd {np.std(at_random):.3f}, {_DRAWS} draws). Same images: "
        f"{' and '.join(shared)} of {len(first)}."
    )


def _positions(path: Path, ids: np.ndarray, class_index: int) -> np.ndarray:
    """Returns the positions of a class's prototypes among its images."""
    stored = style.read_arrays(path)
    wanted = stored["example_id"][stored["class_index"] == class_index].tolist()
    names = ids.tolist()
    strange = sorted(set(wanted).difference(names))
    if strange or not wanted:
        raise PmalError(
            "Prototypes must be among the training images of their class. Received: "
            f"{', '.join(strange) or 'none'} of class {class_index} in {path}. Mine "
            "anew."
        )
    return np.array([names.index(name) for name in wanted])
