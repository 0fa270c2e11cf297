"""Prototypes of repeated mining in one embedding, as Fig. 4b shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures.figure import Drawn, OfTrial
from pmal_tf.results.figures.style import (
    COLOURS,
    GREY,
    MARKERS,
    about_trial,
    flatten,
    mining_of,
    new_figure,
    read_arrays,
    save,
    some_rows,
    tidy,
)
from pmal_tf.runtime.errors import PmalError

_MOST_POINTS = 600
_DRAWS = 200


def draw_repeated_mining(
    trial: Path, out: Path, name: str, class_index: int = 0
) -> Drawn:
    """Draws the prototypes of a class by repetition of mining.

    All stand where M^1 embeds them; repetitions chose them with other classifiers.

    Args:
        trial: A trial's folder.
        out: The folder of figures.
        name: Stem of the files.
        class_index: The class.

    Raises:
        PmalError: If mining was not repeated, there is no such class or it has too few
            images, or a prototype is none of its images.
    """
    mining = mining_of(trial)
    repeats = sorted(
        mining.glob("repeat_*/prototypes.npz"),
        key=lambda path: int(path.parent.name.removeprefix("repeat_")),
    )
    if not repeats:
        raise PmalError(
            "A figure of repeated mining needs repetitions. Received: none in "
            f"{mining}. Run with --mining_repeats=2."
        )
    ids, embedding = _class_images(mining, class_index)
    chosen = [
        _positions(path, ids, class_index)
        for path in (mining / "prototypes.npz", *repeats)
    ]
    shown = shown_rows(len(ids), np.unique(np.concatenate(chosen)))
    place = {row: position for position, row in enumerate(shown)}
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    # An embedding of zeros has no direction: it keeps its zeros, at distance 1 of all.
    directions = embedding / np.where(length > 0, length, 1.0)
    flat = flatten(directions[shown])
    figure = new_figure(5.4, 4.4)
    axes = tidy(figure.subplots())
    axes.scatter(flat[:, 0], flat[:, 1], s=6, color=GREY, alpha=0.5, linewidths=0)
    for repeat, rows in enumerate(chosen):
        spots = flat[[place[row] for row in rows]]
        axes.scatter(
            spots[:, 0],
            spots[:, 1],
            s=45,
            color=COLOURS[repeat % len(COLOURS)],
            marker=MARKERS[repeat % len(MARKERS)],
            edgecolors="black",
            linewidths=0.5,
            label=f"repetition {repeat}" if repeat else "mining",
        )
    axes.legend(frameon=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    class_name = read_result(trial)["known"][class_index]
    return save(
        figure,
        out,
        name,
        title=f"Prototypes of {class_name} over repeated mining",
        caption=f"{about_trial(trial)}. {_caption(directions, chosen, class_name)}",
    )


FIGURES = (OfTrial("repeated_mining", draw_repeated_mining),)


def shown_rows(count: int, needed: np.ndarray, most: int = _MOST_POINTS) -> np.ndarray:
    """Returns positions to show, in order: those needed, and others drawn at random.

    Args:
        count: How many images there are.
        needed: Distinct positions that are shown in any case, even if more than `most`.
        most: How many are shown at most.
    """
    others = np.setdiff1d(np.arange(count), needed)
    drawn = others[some_rows(len(others), max(0, most - len(needed)))]
    return np.union1d(needed, drawn)


def distance_to_nearest(points: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean over points of the least cosine distance to the others.

    Args:
        points: [n, D] of length 1.
        others: [m, D] of length 1.

    Returns:
        In [0, 2].
    """
    # The cosine of a point with itself may be a rounding error above 1.
    distance = np.maximum(1.0 - points @ others.T, 0.0)
    return float(distance.min(axis=1).mean())


def _caption(directions: np.ndarray, chosen: list[np.ndarray], class_name: str) -> str:
    """Says how far repetitions are, against images drawn at random."""
    main = directions[chosen[0]]
    repeated = [distance_to_nearest(directions[rows], main) for rows in chosen[1:]]
    shared = [len(np.intersect1d(rows, chosen[0])) for rows in chosen[1:]]
    rng = np.random.default_rng(0)
    drawn = [
        distance_to_nearest(
            directions[rng.choice(len(directions), len(chosen[0]), replace=False)], main
        )
        for _ in range(_DRAWS)
    ]
    distances = " and ".join(f"{value:.3f}" for value in repeated)
    return (
        f"{len(directions)} training images of {class_name} in the embedding of M^1. "
        f"Mean cosine distance of a repetition's prototypes to the nearest of mining: "
        f"{distances}; of as many random images of the class {np.mean(drawn):.3f} "
        f"(sd {np.std(drawn):.3f}, {_DRAWS} draws). Same images: "
        f"{' and '.join(map(str, shared))} of {len(chosen[0])}."
    )


def _class_images(mining: Path, class_index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and embeddings of a class's training images."""
    stored = read_arrays(mining / "robustness.npz")
    label = stored["class_index"]
    own = np.flatnonzero(label == class_index)
    if not len(own):
        raise PmalError(
            "A figure of repeated mining needs a class of the trial. Received: class "
            f"{class_index} of {label.max() + 1} in {mining.parent}"
        )
    embedding = np.load(mining / "embedding_0.npy", mmap_mode="r")
    return stored["example_id"][own], np.asarray(embedding[own])


def _positions(path: Path, ids: np.ndarray, class_index: int) -> np.ndarray:
    """Returns the positions of a class's prototypes among its images."""
    stored = read_arrays(path)
    wanted = stored["example_id"][stored["class_index"] == class_index].tolist()
    position = {name: row for row, name in enumerate(ids.tolist())}
    strange = [name for name in wanted if name not in position]
    if strange or not wanted:
        raise PmalError(
            "Prototypes must be among the training images of their class. Received: "
            f"{', '.join(strange) or 'none'} of class {class_index} in {path}. Mine "
            "anew."
        )
    return np.array([position[name] for name in wanted])
