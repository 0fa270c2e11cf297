"""What the robustness r tells: of one class (Fig. 3b), and of accuracy (Fig. 4a)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures.class_sheets import SheetImages
from pmal_tf.results.figures.figure import Drawn, OfTrial
from pmal_tf.results.figures.sheets import contact_sheet
from pmal_tf.results.figures.style import (
    COLOURS,
    GREY,
    about_trial,
    mining_of,
    new_figure,
    read_arrays,
    save,
    tidy,
)
from pmal_tf.runtime.errors import PmalError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRIPS = ("lowest", "median", "highest")
_BINS = 40
_COLUMNS = 5
_SPANS = (COLOURS[1], COLOURS[4], COLOURS[2])
_MOST_INTERVALS = 10
_LEAST_PER_INTERVAL = 20
# Two-sided 95 % of the normal distribution.
_Z = 1.96


def draw_robustness_of_class(
    trial: Path, out: Path, name: str, class_index: int = 0
) -> Drawn:
    """Draws the distribution of r in one class, with images of it, as Fig. 3b does.

    Args:
        trial: A trial's folder.
        out: The folder of figures.
        name: Stem of the files.
        class_index: The class.

    Raises:
        PmalError: If there is no such class, or none of its images were collected.
    """
    robustness, label, _ = _robustness(trial)
    own = robustness[label == class_index]
    if not len(own):
        raise PmalError(
            "A figure of robustness needs a class of the trial. Received: class "
            f"{class_index} of {label.max() + 1} in {trial}"
        )
    class_name = read_result(trial)["known"][class_index]
    sheets = SheetImages.load(mining_of(trial) / "sheets.npz")
    if not (sheets.class_index == class_index).any():
        raise PmalError(
            "A figure of robustness needs a class whose images were collected, one of "
            f"the first {len(np.unique(sheets.class_index))}. Received: class "
            f"{class_index} ({class_name}) in {trial}"
        )
    figure = new_figure(7.2, 4.4)
    grid = figure.add_gridspec(2, len(_STRIPS), height_ratios=(1, 1.1))
    top = figure.add_subplot(grid[0, :])
    top.hist(own, _BINS, color=COLOURS[0])
    _mark_prototypes(top, trial, class_index)
    top.set_xlabel("robustness r")
    top.set_ylabel("training images")
    tidy(top)
    for position, strip in enumerate(_STRIPS):
        axes = figure.add_subplot(grid[1, position])
        chosen = (sheets.class_index == class_index) & (sheets.strip == strip)
        _show_sheet(axes, sheets.image[chosen])
        low, high = _ends(sheets.robustness[chosen])
        axes.set_title(f"{strip}: r {low:.3f} to {high:.3f}", fontsize=8)
        # Where these images lie in the distribution; a line where they lie close.
        top.axvspan(low, high, color=_SPANS[position], alpha=0.35, linewidth=1.5)
        top.annotate(
            strip,
            ((low + high) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8,
        )
    return save(
        figure,
        out,
        name,
        title=f"Robustness of {class_name}",
        caption=f"{about_trial(trial)}. r of the {len(own)} training images of "
        f"{class_name}; shaded and below, those of lowest, middling and highest r; "
        "triangles, the mined prototypes.",
    )


def draw_robustness_accuracy(trial: Path, out: Path, name: str) -> Drawn:
    """Draws how r is distributed, and how often M^1 is right by it, as Fig. 4a does.

    Args:
        trial: A trial's folder.
        out: The folder of figures.
        name: Stem of the files.

    Raises:
        PmalError: If there are too few images for two intervals.
    """
    robustness, label, predicted = _robustness(trial)
    parts = intervals(robustness)
    right = predicted == label
    figure = new_figure(6.4, 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.hist(robustness, _BINS, color=COLOURS[0])
    top.set_ylabel("training images")
    tidy(top)
    center = [float(np.median(robustness[part])) for part in parts]
    share = [float(right[part].mean()) for part in parts]
    low, high = np.array(
        [wilson_interval(int(right[part].sum()), len(part)) for part in parts]
    ).T
    bottom.errorbar(
        center,
        100 * np.array(share),
        # Where all are right, the upper end is 1 but for rounding, and may be below.
        yerr=100 * np.maximum([np.array(share) - low, high - np.array(share)], 0.0),
        fmt="o-",
        color=COLOURS[1],
        capsize=3,
    )
    bottom.axhline(100 * right.mean(), color=GREY, linewidth=0.8, linestyle=":")
    bottom.set_xlabel("robustness r")
    bottom.set_ylabel("accuracy of $M^1$, %")
    tidy(bottom)
    return save(
        figure,
        out,
        name,
        title="Robustness and accuracy",
        caption=f"{about_trial(trial)}. r of {len(robustness)} training images; below, "
        f"the accuracy of M^1 on them in {len(parts)} intervals of r with "
        f"{_sizes(parts)} images each, at the median r of each, with 95 % Wilson "
        f"intervals; dotted, on all ({100 * right.mean():.1f} %).",
    )


FIGURES = (
    OfTrial("robustness_of_class", draw_robustness_of_class),
    OfTrial("robustness_accuracy", draw_robustness_accuracy),
)


def intervals(robustness: np.ndarray) -> list[np.ndarray]:
    """Returns positions of images by interval of r, equally many in each.

    Args:
        robustness: [N].

    Raises:
        PmalError: If there are too few images.
    """
    count = min(_MOST_INTERVALS, len(robustness) // _LEAST_PER_INTERVAL)
    if count < 2:
        raise PmalError(
            f"Two intervals of r need {2 * _LEAST_PER_INTERVAL} training images. "
            f"Received: {len(robustness)}"
        )
    return np.array_split(np.argsort(robustness, kind="stable"), count)


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share by Wilson 1927, within [0, 1]."""
    share = successes / count
    middle = share + _Z**2 / (2 * count)
    width = _Z * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return float((middle - width) / scale), float((middle + width) / scale)


def _robustness(trial: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns r, class and prediction of M^1 of every training image."""
    stored = read_arrays(mining_of(trial) / "robustness.npz")
    return stored["robustness"], stored["class_index"], stored["predicted_0"]


def _sizes(parts: list[np.ndarray]) -> str:
    """Says how many images the intervals hold, e.g. `20 to 21`."""
    sizes = sorted({len(part) for part in parts})
    return " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))


def _mark_prototypes(axes: Axes, trial: Path, class_index: int) -> None:
    """Marks the r of a class's prototypes on the axis."""
    mined = read_arrays(mining_of(trial) / "prototypes.npz")
    r = mined["robustness"][mined["class_index"] == class_index]
    height = axes.get_ylim()[1] * 0.04
    axes.plot(r, np.full(len(r), height), "^", color="white", mec="black", ms=6)


def _show_sheet(axes: Axes, image: np.ndarray) -> None:
    """Shows images on a sheet."""
    sheet = contact_sheet(image, columns=_COLUMNS)
    axes.imshow(sheet, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Returns the least and the largest value."""
    return float(values.min()), float(values.max())
