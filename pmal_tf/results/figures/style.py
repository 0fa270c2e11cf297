"""One style for all figures: safe for colour-blind readers, and in black and white.

Whatever a colour tells, a line style or a marker tells too.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures.figure import Drawn
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008), black last: it is for text.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442"),
    "#000000",
)
GREY = "#9A9A9A"
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")

_DOTS_PER_INCH = 150
_FONT_SIZE = 9
_LEAST_POINTS = 10
_PERPLEXITY = 30.0


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a run's file.

    Raises:
        PmalError: If the file is damaged.
        FileNotFoundError: If there is none.
    """
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
    """Returns the folder of what was mined in a trial.

    Raises:
        PmalError: If there is none.
    """
    folder = trial / "mining"
    if not folder.is_dir():
        result = read_result(trial)
        raise PmalError(
            f"This figure is of mining. Received: {trial} of {own_title(result)}, "
            "without any: the method does without, or it was tidied away."
        )
    return folder


def own_title(result: Mapping[str, Any]) -> str:
    """Returns the title of the method that a result is of."""
    return result["titles"].get(result["method"], result["method"])


def about_trial(trial: Path) -> str:
    """Says which trial a figure is of, e.g. `cifar10, protocol neal, trial 0`."""
    result = read_result(trial)
    experiment, dataset = result["experiment"], result["dataset"]
    told = dataset if experiment == dataset else f"{experiment}: {dataset}"
    return f"{told}, protocol {result['protocol']}, trial {result['trial']}"


def new_figure(width: float = 6.4, height: float = 4.0) -> Figure:
    """Returns an empty figure; sizes in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": _FONT_SIZE}):
        return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> Axes:
    """Takes away the lines that carry nothing, and sets small type."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_FONT_SIZE - 1)
    axes.xaxis.label.set_fontsize(_FONT_SIZE)
    axes.yaxis.label.set_fontsize(_FONT_SIZE)
    axes.title.set_fontsize(_FONT_SIZE + 1)
    return axes


def save(figure: Figure, out: Path, name: str, *, title: str, caption: str) -> Drawn:
    """Writes a figure as PNG and SVG.

    Args:
        figure: The figure.
        out: The folder.
        name: Stem of the files.
        title: What it shows.
        caption: What is needed to read it.
    """
    import matplotlib

    paths = {}
    # A fixed salt and no date: the same runs give the same files.
    with matplotlib.rc_context({"svg.hashsalt": "pmal_tf", "font.size": _FONT_SIZE}):
        for kind in ("png", "svg"):
            content, dated = io.BytesIO(), kind == "svg"
            figure.savefig(
                content,
                format=kind,
                dpi=_DOTS_PER_INCH,
                metadata={"Date": None} if dated else None,
            )
            paths[kind] = out / f"{name}.{kind}"
            write_atomically(
                paths[kind], functools.partial(_write_bytes, content.getvalue())
            )
    return Drawn(name, title, caption, paths["png"], paths["svg"])


def _write_bytes(content: bytes, path: Path) -> None:
    """Writes a file."""
    path.write_bytes(content)


def flatten(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lays points out in two dimensions by t-SNE (van der Maaten and Hinton 2008).

    Args:
        points: [n, D], at least 10.
        seed: Of the layout.

    Returns:
        [n, 2]; distances between far groups mean nothing.

    Raises:
        PmalError: If there are too few points.
    """
    count = len(points)
    if count < _LEAST_POINTS:
        raise PmalError(
            f"There are too few points for t-SNE, which needs {_LEAST_POINTS}. "
            f"Received: {count}"
        )
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return layout.fit_transform(np.asarray(points, np.float32))


def rows_by_group(
    group: np.ndarray, share: dict[int, int], seed: int = 0
) -> np.ndarray:
    """Returns positions drawn group by group, in order.

    Args:
        group: [n] group of each point.
        share: By group, how many at most; other groups give none.
        seed: Of the draw.
    """
    chosen = []
    for index, most in share.items():
        own = np.flatnonzero(group == index)
        chosen.append(own[some_rows(len(own), most, seed)])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def some_rows(count: int, most: int, seed: int = 0) -> np.ndarray:
    """Returns at most `most` of `count` positions, in order, drawn by a fixed seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])
