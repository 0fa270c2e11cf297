"""The robustness r in one class (Fig. 3b), and accuracy by r (Fig. 4a)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from pmal_tf.results.collect.run_folders import read_result
from pmal_tf.results.figures import style
from pmal_tf.results.figures.figure import OfTrial, Picture
from pmal_tf.results.figures.sheets import contact_sheet
from pmal_tf.runtime.errors import PmalError

# What is shown of a class, and its colour in the distribution.
_STRIPS = {
    "lowest": style.COLOURS[1],
    "median": style.COLOURS[4],
    "highest": style.COLOURS[2],
}
_BINS = 40
_MOST_INTERVALS = 10
_LEAST_PER_INTERVAL = 20


@style.in_style
def draw_robustness_of_class(trial: Path, class_index: int = 0) -> Picture:
    """Draws the distribution of r in one class, with images of it, as Fig. 3b does."""
    mining = style.mining_of(trial)
    stored = style.read_arrays(mining / "robustness.npz")
    own = style.images_of_class(stored["class_index"], class_index, trial)
    class_name = read_result(trial)["known"][class_index]
    sheets = style.read_arrays(mining / "sheets.npz")
    of_class = sheets["class_index"] == class_index
    if not of_class.any():
        raise PmalError(
            "A figure of robustness needs a class whose images were collected, one of "
            f"the first {len(np.unique(sheets['class_index']))}. Received: class "
            f"{class_index} ({class_name}) in {trial}"
        )
    figure = Figure(figsize=(7.2, 4.4))
    grid = figure.add_gridspec(2, len(_STRIPS), height_ratios=(1, 1.1))
    top = figure.add_subplot(grid[0, :])
    top.hist(stored["robustness"][own], _BINS, color=style.COLOURS[0])
    mined = style.read_arrays(mining / "prototypes.npz")
    r = mined["robustness"][mined["class_index"] == class_index]
    height = np.full(len(r), top.get_ylim()[1] * 0.04)
    top.plot(r, height, "^", color="white", mec="black", ms=6)
    top.set_xlabel("robustness r")
    top.set_ylabel("training images")
    for position, (strip, colour) in enumerate(_STRIPS.items()):
        axes = style.without_axes(figure.add_subplot(grid[1, position]))
        chosen = of_class & (sheets["strip"] == strip)
        axes.imshow(contact_sheet(sheets["image"][chosen]), interpolation="nearest")
        r = sheets["robustness"][chosen]
        low, high = float(r.min()), float(r.max())
        axes.set_title(f"{strip}: r {low:.3f} to {high:.3f}", fontsize=8)
        # Where these images lie in the distribution; a line where they lie close.
        top.axvspan(low, high, color=colour, alpha=0.35, linewidth=1.5)
        top.annotate(
            strip,
            ((low + high) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8,
        )
    caption = (
        f"{style.about_trial(trial)}. r of the {len(own)} training images of "
        f"{class_name}; shaded and below, those of lowest, middling and highest r; "
        "triangles, the mined prototypes."
    )
    return Picture(figure, f"Robustness of {class_name}", caption)


@style.in_style
def draw_robustness_accuracy(trial: Path) -> Picture:
    """Draws how r is distributed, and how often M^1 is right by it, as Fig. 4a does."""
    stored = style.read_arrays(style.mining_of(trial) / "robustness.npz")
    robustness = stored["robustness"]
    right = stored["predicted_0"] == stored["class_index"]
    parts = intervals(robustness)
    figure = Figure(figsize=(6.4, 4.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.hist(robustness, _BINS, color=style.COLOURS[0])
    top.set_ylabel("training images")
    share = np.array([right[part].mean() for part in parts])
    wilson = [
        binomtest(int(right[part].sum()), len(part)).proportion_ci(method="wilson")
        for part in parts
    ]
    low, high = np.array(wilson).T
    bottom.errorbar(
        [float(np.median(robustness[part])) for part in parts],
        100 * share,
        # Where all are right, the upper end is 1 but for rounding, and may be below.
        yerr=100 * np.maximum([share - low, high - share], 0.0),
        fmt="o-",
        color=style.COLOURS[1],
        capsize=3,
    )
    bottom.axhline(100 * right.mean(), color=style.GREY, linewidth=0.8, linestyle=":")
    bottom.set_xlabel("robustness r")
    bottom.set_ylabel("accuracy of $M^1$, %")
    sizes = style.span([len(part) for part in parts])
    caption = (
        f"{style.about_trial(trial)}. r of {len(robustness)} training images; below, "
        f"the accuracy of M^1 on them in {len(parts)} intervals of r with {sizes} "
        "images each, at the median r of each, with 95 % Wilson intervals; dotted, on "
        f"all ({100 * right.mean():.1f} %)."
    )
    return Picture(figure, "Robustness and accuracy", caption)


FIGURES = (
    OfTrial("robustness_of_class", draw_robustness_of_class),
    OfTrial("robustness_accuracy", draw_robustness_accuracy),
)


def intervals(robustness: np.ndarray) -> list[np.ndarray]:
    """Returns positions of images by interval of r, equally many in each."""
    count = min(_MOST_INTERVALS, len(robustness) // _LEAST_PER_INTERVAL)
    if count < 2:
        raise PmalError(
            f"Two intervals of r need {2 * _LEAST_PER_INTERVAL} training images. "
            f"Received: {len(robustness)}"
        )
    return np.array_split(np.argsort(robustness, kind="stable"), count)
