"""How mining's seconds grow with the numbers of samples and of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.benchmark.measurement import Finding, Measurement, Times, time_in_turn
from pmal_tf.benchmark.mining_references import random_spaces
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
LEAST_SAMPLES = 16
_REPETITIONS = 3
_DIVISORS, _FACTORS = (8, 4, 2, 1), (2, 4, 8, 16)
# Okabe and Ito's blue and vermilion, which colour-blind readers can tell apart.
_POINT_COLOUR, _FIT_COLOUR = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Growth:
    """How seconds grow with a size: seconds = factor * size ** exponent.

    Attributes:
        times: Seconds by size.
        exponent: Fitted to the medians by least squares of their logarithms.
        factor: Fitted with it.
    """

    times: dict[int, Times]
    exponent: float
    factor: float

    @classmethod
    def fit(cls, times: dict[int, Times]) -> Growth:
        """Fits the power law.

        Args:
            times: Seconds by size, of at least two sizes.
        """
        medians = [own.median for own in times.values()]
        exponent, offset = np.polyfit(np.log(list(times)), np.log(medians), 1)
        return cls(times, float(exponent), float(np.exp(offset)))


def measure_growth(
    n: int, k: int, mine: Callable[..., object], plot: Path | None
) -> Finding:
    """Measures how cost grows with n, and with k at half of n.

    Args:
        n: The largest number of samples, at least `LEAST_SAMPLES`.
        k: The smallest number of classes.
        mine: Robustness of embeddings and kernels.
        plot: The picture to draw, if any; a file of one of `PLOT_SUFFIXES`.

    Returns:
        The exponents.
    """
    half = n // 2
    by_n = {n // part: _seconds(n // part, k, mine) for part in _DIVISORS}
    by_k, left_out = {k: by_n[half]}, ""
    for classes in (k * factor for factor in _FACTORS):
        try:
            by_k[classes] = _seconds(half, classes, mine)
        except PmalError as error:
            # More classes than the budget has room for.
            left_out = f" No more than {max(by_k):,}: {first_line(error)}."
            break
    growths = {
        f"samples N, with {k:,} classes": Growth.fit(by_n),
        f"classes K, with {half:,} samples": Growth.fit(by_k),
    }
    if plot:
        write_atomically(plot, _drawing(growths).savefig)
    return Finding(
        measurements=tuple(
            Measurement(f"exponent_of_{name}", growth.exponent, "power")
            for name, growth in zip("nk", growths.values(), strict=True)
        ),
        sentences=tuple(
            f"Seconds grow with the power {growth.exponent:.2f} of the {name}, from "
            f"{min(growth.times):,} to {max(growth.times):,}.{more}"
            for (name, growth), more in zip(
                growths.items(), ("", left_out), strict=True
            )
        ),
    )


def _seconds(n: int, k: int, mine: Callable[..., object]) -> Times:
    """Times our route for one size, once it is compiled."""
    spaces = random_spaces(n, k)

    def work() -> None:
        mine(spaces.embeddings, spaces.kernels)

    work()
    (times,) = time_in_turn(work, repetitions=_REPETITIONS)
    return times


def _drawing(growths: dict[str, Growth]) -> Figure:
    """Draws seconds over size, by what the size is, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(growths), sharey=True)
    for axes, (name, growth) in zip(panels, growths.items(), strict=True):
        sizes = np.array(list(growth.times), float)
        least, middle, most = (
            np.array([value(times.values) for times in growth.times.values()])
            for value in (min, np.median, max)
        )
        axes.plot(
            sizes,
            growth.factor * sizes**growth.exponent,
            color=_FIT_COLOUR,
            label=f"fit, power {growth.exponent:.2f}",
        )
        axes.errorbar(
            sizes,
            middle,
            (middle - least, most - middle),
            fmt="o",
            capsize=3,
            color=_POINT_COLOUR,
            label=f"median and range of {_REPETITIONS}",
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel(name)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds")
    return figure
