"""How fast topology robustness is, and how much memory it takes, beside references.

References, in the same process and in turn with ours: scipy's distance matrices, as a
user would write them and with nothing but them in memory; bare matrix products of the
same sizes; and the bare square roots of all distances, which no exact route can do
without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pmal_tf.benchmark.measurement import (
    Measurement,
    compare,
    render,
    single,
    speedup,
    time_in_turn,
)
from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.benchmark.mining_references import (
    ScipyRoute,
    Spaces,
    check_agreement,
    matrix_products,
    random_spaces,
    square_roots,
    why_not_scipy,
)
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.results.figures.style import COLOURS, in_style
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.files import write_atomically

_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_LEAST_SAMPLES_OF_GROWTH = 16
_GROWTH_REPETITIONS = 3
_DIVISORS, _FACTORS = (8, 4, 2, 1), (2, 4, 8, 16)


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Measures the robustness of random embeddings in two spaces.

    Raises:
        PmalError: If a setting is out of range, the budget is too small, or our
            exponents are not scipy's.
    """
    n, k, dtype, plot = settings.n, settings.k, settings.dtype, settings.plot
    references, repetitions = settings.references, settings.repetitions or 5
    if plot and Path(plot).suffix.lower() not in _PLOT_SUFFIXES:
        raise PmalError(
            f"`plot` must be the name of a {', '.join(_PLOT_SUFFIXES)} file. Received: "
            f"--plot={plot}"
        )
    growing = settings.scaling or bool(plot)
    if growing and n < _LEAST_SAMPLES_OF_GROWTH:
        raise PmalError(
            f"`n` must be at least {_LEAST_SAMPLES_OF_GROWTH}, to see growth. "
            f"Received: --n={n}"
        )
    mine = partial(topology_robustness, dtype=dtype, memory_mb=settings.memory_mb)
    spaces = random_spaces(n, k)

    def ours() -> np.ndarray:
        return mine(spaces.embeddings, spaces.kernels).exponent

    # Before the references take memory; the first call compiles, the second does not.
    exponent, first_peak = peak_extra_memory(ours)
    peak = max(first_peak, peak_extra_memory(ours)[1]) / 2**20
    measurements: list[Measurement] = []
    notes: list[str] = []
    seconds: list[float] = []

    def beside(
        name: str, note: str, reference: Callable[[], object], make: Any = compare
    ) -> Measurement:
        reference()
        own, other = time_in_turn(ours, reference, repetitions=repetitions)
        seconds.extend(own)
        return make(name, own, other, note=note)

    # One after the other, so that each has the memory of the one before.
    if "scipy" in references:
        measurements, notes = _beside_scipy(beside, spaces, exponent, peak)
    if "matmul" in references:
        products, note = matrix_products(spaces, dtype), "beside matrix products"
        measurements.append(beside("matmul_time_ratio", note, products))
    if "sqrt" in references:
        roots, note = square_roots(n * (n + 1), dtype), "beside square roots"
        measurements.append(beside("sqrt_time_ratio", note, roots))
    # Beside no reference, or scipy alone, which has no room.
    seconds = seconds or time_in_turn(ours, repetitions=repetitions)[0]
    measurements += _own_figures(n, k, seconds, peak)
    if growing:
        found, more = measure_growth(n, k, mine, plot)
        measurements += found
        notes += more
    title = f"{n:,} samples, {k:,} classes, {dtype}, budget {settings.memory_mb} MiB."
    return render(title, measurements, notes), measurements


def _beside_scipy(
    beside: Callable[..., Measurement],
    spaces: Spaces,
    exponent: np.ndarray,
    peak: float,
) -> tuple[list[Measurement], list[str]]:
    """Compares time, memory and result with scipy's, where that fits into memory.

    Memory is compared with the variant that takes less of it, the stricter comparison.
    """
    if reason := why_not_scipy(len(exponent)):
        return [], [reason]
    route = ScipyRoute(spaces)
    expected, scipy_bytes = peak_extra_memory(route.in_place)
    difference = check_agreement(exponent, expected, route.mean_distance())
    # The smallest matrices may not even take a page.
    peaks = [peak], [max(scipy_bytes, 4096) / 2**20]
    fast = "times as fast as scipy's cdist"
    note = "beside scipy all in place, which needs less; its matrices included"
    return [
        beside("scipy_speedup", f"{fast} as one writes it", route.as_written, speedup),
        beside(
            "scipy_in_place_speedup", f"{fast}, all in place", route.in_place, speedup
        ),
        compare("memory_fraction", *peaks, sides="MiB", note=note),
    ], [
        "scipy computes in float64, with distances in matrices that are there before "
        "the clock starts. As one writes it, NumPy makes new matrices of their "
        "differences and squares at each call, which costs page faults; all in place, "
        "it makes none.",
        "The largest relative difference of our exponents from scipy's is "
        f"{difference:.1e}.",
    ]


def _own_figures(
    n: int, k: int, seconds: Sequence[float], peak: float
) -> list[Measurement]:
    """Returns our own figures, from all seconds that were measured.

    Operations are those that each of the n (n - 1) / 2 pairs needs: per space 2 K of a
    scalar product, and 5 that make a distance of it (the sum of two squared lengths,
    twice the product, the difference, the maximum with 0, the root); for both spaces
    together 4 (difference, square, and one sum for each of the two samples).
    """
    rate = n * (n - 1) / 2 / median(seconds)
    gflops = rate * (2 * (2 * k + 5) + 4) / 1e9
    beyond = "beyond the inputs"
    return [
        single("seconds", seconds, "s", "ours, in all timed calls"),
        Measurement("pairs_per_second", rate, "pairs/s", note="pairs of samples"),
        Measurement("gflops", gflops, "GFLOP/s"),
        Measurement("peak_memory_mib", peak, "MiB", note=beyond),
    ]


def measure_growth(
    n: int, k: int, mine: Callable[..., object], plot: str = ""
) -> tuple[list[Measurement], list[str]]:
    """Measures how seconds grow with n, and with k at half of n.

    Args:
        n: The largest number of samples, at least 16.
        k: The smallest number of classes.
        mine: Robustness of embeddings and kernels.
        plot: The picture to draw, if any.

    Returns:
        The exponents b of seconds = a size^b, and sentences.
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
        f"samples N, with {k:,} classes": by_n,
        f"classes K, with {half:,} samples": by_k,
    }
    if plot:
        _draw(growths, Path(plot))
    powers = [fit_power(seconds)[0] for seconds in growths.values()]
    notes = [
        f"Seconds grow with the power {power:.2f} of the {label}, from "
        f"{min(seconds):,} to {max(seconds):,}."
        for power, (label, seconds) in zip(powers, growths.items(), strict=True)
    ]
    return [
        Measurement(f"exponent_of_{size}", power, "power")
        for size, power in zip("nk", powers, strict=True)
    ], [notes[0], notes[1] + left_out]


def fit_power(seconds: dict[int, list[float]]) -> tuple[float, float]:
    """Returns b and a of seconds = a size^b, by least squares of logarithms.

    Args:
        seconds: By size, for at least two sizes; their medians are fitted.
    """
    medians = [median(own) for own in seconds.values()]
    exponent, offset = np.polyfit(np.log(list(seconds)), np.log(medians), 1)
    return float(exponent), float(np.exp(offset))


def _seconds(n: int, k: int, mine: Callable[..., object]) -> list[float]:
    """Times our route for one size, once it is compiled."""
    spaces = random_spaces(n, k)
    work = partial(mine, spaces.embeddings, spaces.kernels)
    work()
    return time_in_turn(work, repetitions=_GROWTH_REPETITIONS)[0]


@in_style
def _draw(growths: dict[str, dict[int, list[float]]], plot: Path) -> None:
    """Draws seconds over size, by what the size is, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9, 4))
    panels = figure.subplots(1, len(growths), sharey=True)
    for axes, (label, growth) in zip(panels, growths.items(), strict=True):
        sizes, seconds = np.array(list(growth), float), np.array(list(growth.values()))
        exponent, factor = fit_power(growth)
        least, middle, most = np.quantile(seconds, (0, 0.5, 1), axis=1)
        fit = f"fit, power {exponent:.2f}"
        axes.loglog(sizes, factor * sizes**exponent, color=COLOURS[1], label=fit)
        axes.errorbar(
            *(sizes, middle, (middle - least, most - middle)),
            fmt="o",
            capsize=3,
            color=COLOURS[0],
            label=f"median and range of {_GROWTH_REPETITIONS}",
        )
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.legend()
    panels[0].set_ylabel("seconds")
    write_atomically(plot, figure.savefig)
