"""One style for all figures: safe for colour-blind readers, and in black and white.

Whatever a colour means, a line style or a marker means too.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures.figure import Drawn, Picture
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_atomically

# Okabe and Ito's palette (2008), black last: it is for text.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442"),
    "#000000",
)
GREY = "#9A9A9A"
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")

_LEAST_POINTS = 10
_PERPLEXITY = 30.0

# Draws and writes in this style: a decorator, and a context.
in_style = matplotlib.rc_context(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 150,
        # With no date, the same runs give the same files.
        "svg.hashsalt": "pmal_tf",
    }
)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a run's file; raises a PmalError if it is damaged."""
    try:
        # Opened here: NumPy leaves a file open that turns out to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (EOFError, ValueError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise PmalError(
            f"A run's arrays must stand as they were written. Received: {path}: "
            f"{error}. Put a sound copy back, or make its stage anew."
        ) from error


def mining_of(trial: Path) -> Path:
    """Returns the folder of what was mined; raises a PmalError if there is none."""
    folder = trial / "mining"
    if not folder.is_dir():
        raise PmalError(
            f"This figure is of mining. Received: {trial} of "
            f"{own_title(read_result(trial))}, without any: the method does without, "
            "or it was tidied away."
        )
    return folder


def images_of_class(label: np.ndarray, class_index: int, trial: Path) -> np.ndarray:
    """Returns where images of a class are; raises a PmalError if there are none."""
    own = np.flatnonzero(label == class_index)
    if not len(own):
        raise PmalError(
            "This figure needs a class of the trial. Received: class "
            f"{class_index} of {label.max() + 1} in {trial}"
        )
    return own


def own_title(result: Mapping[str, Any]) -> str:
    """Returns the title of the method that a result is of."""
    return result["titles"].get(result["method"], result["method"])


def about_trial(trial: Path) -> str:
    """Says which trial a figure is of, e.g. `cifar10, protocol neal, trial 0`."""
    result = read_result(trial)
    name, dataset = result["experiment"], result["dataset"]
    about = dataset if name == dataset else f"{name}: {dataset}"
    return f"{about}, protocol {result['protocol']}, trial {result['trial']}"


def span(numbers: Collection[int]) -> str:
    """Says from where to where numbers go, e.g. `20 to 21`, or `20`."""
    return " to ".join(map(str, sorted({min(numbers), max(numbers)})))


def without_axes(axes: Axes) -> Axes:
    """Takes away frame and ticks, of images and of layouts without a scale."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return axes


def scatter(
    axes: Axes, points: np.ndarray, size: float, colour: str, **look: Any
) -> None:
    """Draws [n, 2] points."""
    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, **look)


@in_style
def save(picture: Picture, out: Path, name: str) -> Drawn:
    """Writes a figure into a folder, as `<name>.png` and `<name>.svg`."""
    png, svg = out / f"{name}.png", out / f"{name}.svg"
    write_atomically(png, picture.figure.savefig)
    write_atomically(
        svg, lambda path: picture.figure.savefig(path, metadata={"Date": None})
    )
    return Drawn(name, picture.title, picture.caption, png, svg)


def flatten(points: np.ndarray) -> np.ndarray:
    """Lays points out in two dimensions by t-SNE (van der Maaten and Hinton 2008).

    From [n, D] to [n, 2]; distances between far groups mean nothing. Raises a PmalError
    if there are too few points.
    """
    count = len(points)
    if count < _LEAST_POINTS:
        raise PmalError(
            f"There are too few points for t-SNE, which needs {_LEAST_POINTS}. "
            f"Received: {count}"
        )
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=0)
    return layout.fit_transform(np.asarray(points, np.float32))


def some_rows(count: int, most: int) -> np.ndarray:
    """Returns at most `most` of `count` positions, in order, drawn by a fixed seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
