"""How fast topology robustness is, and how much memory it takes, beside references.

References, in the same process and in turn with ours: scipy's distance matrices, as a
user would write them and with nothing but them in memory; bare matrix products of the
same sizes; and the bare square roots of all distances, which no exact route can do
without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.spatial.distance import cdist

from pmal_tf.benchmark.measurement import (
    Measurement,
    compare,
    render,
    single,
    time_in_turn,
    times_as_fast,
)
from pmal_tf.benchmark.memory import available_memory, peak_extra_memory
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.mining.topologies import TOPOLOGIES
from pmal_tf.results.figures.style import COLOURS, in_style
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.files import write_atomically

_LEAST_SAMPLES_OF_GROWTH = 16
_GROWTH_REPETITIONS = 3
_DIVISORS, _FACTORS = (8, 4, 2, 1), (2, 4, 8, 16)
_DIMENSION = 128
# Of classes' centres, of samples around them, and of the second space beside the first.
_CENTRE_SPREAD, _SAMPLE_SPREAD, _SPACE_SPREAD = 1.0, 0.5, 0.2
_BLOCK_ROWS = 1024
_TILE_COLUMNS, _TILE_ROWS = 1024, 1024
# Square roots for each number that is loaded and stored: with one, moving the tile
# takes as long as the roots.
_ROOTS_AT_ONCE = 4
_SAMPLED_ROWS = 256
_TOLERANCE = 1e-5
# Of the root of a correlation's exponent, times how often their spread the distances'
# mean is, and of a chord.
_TOLERANCE_OF_ROOT, _TOLERANCE_OF_CHORD = 5e-6, 1e-6


@dataclass(frozen=True)
class Spaces:
    """Two embedding spaces, [n, D] float32 each, and their kernels, [D, K]."""

    embeddings: Sequence[np.ndarray]
    kernels: Sequence[np.ndarray]

    def centred_logits(self, dtype: str) -> list[np.ndarray]:
        """Returns [n, K] Z (W - mean_k(w_k)) of both spaces, computed in `dtype`."""
        kernels = [kernel.astype(dtype) for kernel in self.kernels]
        return [
            z.astype(dtype) @ (w - w.mean(axis=1, keepdims=True))
            for z, w in zip(self.embeddings, kernels, strict=True)
        ]


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Measures the robustness of random embeddings in two spaces.

    Raises:
        PmalError: If a setting is out of range, the budget is too small, or our
            exponents are not scipy's.
    """
    n, k, dtype, plot = settings.n, settings.k, settings.dtype, settings.plot
    growing = settings.scaling or bool(plot)
    if growing and n < _LEAST_SAMPLES_OF_GROWTH:
        raise PmalError(
            f"`n` must be at least {_LEAST_SAMPLES_OF_GROWTH}, to see growth. "
            f"Received: --n={n}"
        )
    mine = partial(
        topology_robustness,
        topology=settings.topology,
        dtype=dtype,
        memory_mb=settings.memory_mb,
    )
    spaces = random_spaces(n, k)

    def ours() -> np.ndarray:
        return mine(spaces.embeddings, spaces.kernels).exponent

    # Before the references take memory; the first call compiles, the second does not.
    exponent, first_peak = peak_extra_memory(ours)
    peak = max(first_peak, peak_extra_memory(ours)[1]) / 2**20
    measurements: list[Measurement] = []
    notes: list[str] = []
    seconds: list[float] = []
    repetitions = settings.repetitions or 5

    def beside(
        name: str, note: str, reference: Callable[[], object], **options: Any
    ) -> None:
        reference()
        own, other = time_in_turn(ours, reference, repetitions=repetitions)
        seconds.extend(own)
        measurements.append(compare(name, own, other, note=note, **options))

    # One after the other, so that each has the memory of the one before.
    if "scipy" in settings.references:
        route = ScipyRoute(spaces, settings.topology)
        notes += _beside_scipy(beside, measurements, route, exponent, peak)
    if "matmul" in settings.references:
        products = matrix_products(spaces, dtype)
        beside("matmul_time_ratio", "beside matrix products", products)
    if "sqrt" in settings.references:
        roots = square_roots(n * (n + 1), dtype)
        beside("sqrt_time_ratio", "beside square roots", roots)
    # Beside no reference, or scipy alone, which has no room.
    seconds = seconds or time_in_turn(ours, repetitions=repetitions)[0]
    measurements += _own_figures(n, k, seconds, peak)
    if growing:
        found, more = measure_growth(n, k, mine, plot)
        measurements += found
        notes += more
    title = (
        f"{n:,} samples, {k:,} classes, {settings.topology}, {dtype}, budget "
        f"{settings.memory_mb} MiB."
    )
    return render(title, measurements, notes), measurements


def random_spaces(n: int, k: int) -> Spaces:
    """Draws a mixture of n samples of k classes, and the same once more with noise."""
    random = np.random.default_rng(0)

    def normal(rows: int, columns: int, spread: float) -> np.ndarray:
        return np.float32(spread) * random.standard_normal((rows, columns), np.float32)

    first = normal(k, _DIMENSION, _CENTRE_SPREAD)[random.integers(k, size=n)]
    first += normal(n, _DIMENSION, _SAMPLE_SPREAD)
    second = first + normal(n, _DIMENSION, _SPACE_SPREAD)
    kernel = normal(_DIMENSION, k, 1.0)
    other = kernel + normal(_DIMENSION, k, _SPACE_SPREAD)
    return Spaces((first, second), (kernel, other))


def _beside_scipy(
    beside: Callable[..., None],
    measurements: list[Measurement],
    route: ScipyRoute,
    exponent: np.ndarray,
    peak: float,
) -> list[str]:
    """Compares time, memory and result with scipy's, where that fits into memory.

    Memory is compared with the variant that takes less of it, the stricter comparison.
    """
    # Two matrices of distances, and the two that NumPy makes of their differences.
    n = len(exponent)
    needed, available = 4 * n**2 * 8, available_memory()
    if 4 * needed > 3 * available:
        return [
            f"Not measured beside scipy: two float64 matrices of {n:,} x {n:,}, and "
            f"the two that NumPy makes of them, take {needed / 2**30:,.1f} GiB, more "
            f"than three quarters of the available {available / 2**30:,.1f} GiB."
        ]
    expected, scipy_bytes = peak_extra_memory(route.in_place)
    difference = check_agreement(exponent, expected, route.tolerance(expected))
    fast = "times as fast as scipy's cdist"
    for name, label, variant in (
        ("scipy_speedup", " as one writes it", route.as_written),
        ("scipy_in_place_speedup", ", all in place", route.in_place),
    ):
        beside(name, fast + label, variant, figure=times_as_fast)
    # The smallest matrices may not even take a page.
    peaks = [peak], [max(scipy_bytes, 4096) / 2**20]
    note = "beside scipy all in place, which needs less; its matrices included"
    measurements.append(compare("memory_fraction", *peaks, sides="MiB", note=note))
    return [
        "scipy computes in float64, with distances in matrices that are there before "
        "the clock starts. As one writes it, NumPy makes new matrices of their "
        "differences and squares at each call, which costs page faults; all in place, "
        "it makes none.",
        "The largest relative difference of our exponents from scipy's is "
        f"{difference:.1e}.",
    ]


class ScipyRoute:
    """Robustness with scipy, in float64: two whole distance matrices.

    The first call of either variant allocates these two, later ones use them again, so
    that neither is timed while the kernel hands out their pages.
    """

    def __init__(self, spaces: Spaces, topology: str) -> None:
        self._spaces = spaces
        self._form = TOPOLOGIES[topology]
        self._matrices: list[np.ndarray] = []

    def as_written(self) -> np.ndarray:
        """Returns [n] exponents of a form of Eq. 7 as a user writes it.

        NumPy makes new matrices of the differences and squares, and the kernel hands
        out their pages at every call, which can cost more than the arithmetic.
        """
        first, second = self._distances()
        if self._form.centred:
            first = first - first.mean(axis=1, keepdims=True)
            second = second - second.mean(axis=1, keepdims=True)
        if self._form.scale_free:
            first = first / np.sqrt((first**2).mean(axis=1, keepdims=True))
            second = second / np.sqrt((second**2).mean(axis=1, keepdims=True))
        return self._exponents(((first - second) ** 2).mean(axis=1))

    def in_place(self) -> np.ndarray:
        """Returns the same without a third matrix: the leanest form that there is."""
        first, second = matrices = self._distances()
        for own in matrices:
            if self._form.centred:
                own -= own.mean(axis=1, keepdims=True)
            if self._form.scale_free:
                squares = np.einsum("ij,ij->i", own, own)
                own /= np.sqrt(squares / len(own))[:, None]
        first -= second
        first *= first
        return self._exponents(first.mean(axis=1))

    def _exponents(self, mean_square: np.ndarray) -> np.ndarray:
        """Returns [n] exponents of [n] mean squares."""
        if self._form.centred:
            return mean_square / 2
        return np.sqrt(mean_square * (len(mean_square) if self._form.summed else 1))

    def _distances(self) -> list[np.ndarray]:
        """Returns [n, n] distances of both spaces, for the caller to write over."""
        points = self._spaces.centred_logits("float64")
        n = len(points[0])
        self._matrices = self._matrices or [np.empty((n, n)) for _ in points]
        return [
            cdist(own, own, out=matrix)
            for own, matrix in zip(points, self._matrices, strict=True)
        ]

    def tolerance(self, expected: np.ndarray) -> np.ndarray:
        """Returns what [n] exponents may be off, as `topology_robustness` says.

        Of mean distances that are those of some samples, evenly spread, to all.
        """
        points = self._spaces.centred_logits("float64")
        step = max(len(points[0]) // _SAMPLED_ROWS, 1)
        sampled = np.concatenate([cdist(own[::step], own) for own in points])
        mean = sampled.mean(axis=1)
        if self._form.centred:
            spread = (mean / sampled.std(axis=1)).max()
            return _TOLERANCE * expected + _TOLERANCE_OF_ROOT * spread * expected**0.5
        if self._form.scale_free:
            return _TOLERANCE * expected + _TOLERANCE_OF_CHORD
        factor = np.sqrt(len(expected)) if self._form.summed else 1.0
        return _TOLERANCE * (expected + factor * mean.mean())


def check_agreement(
    exponent: np.ndarray, expected: np.ndarray, bound: np.ndarray
) -> float:
    """Checks our [n] exponents; returns the largest relative difference.

    Raises:
        PmalError: If one is off by more than its `bound`, [n].
    """
    difference = np.abs(exponent - expected)
    # Written so that a NaN does not pass, and is the one that is named.
    if not (difference <= bound).all():
        worst = int(np.argmax(difference - bound))
        raise PmalError(
            f"Our exponents must be scipy's within what rounding does, "
            f"{bound[worst]:.3g} for sample {worst}. Received: {exponent[worst]:.9g} "
            f"where scipy has {expected[worst]:.9g}. This is a fault of pmal_tf on "
            "this machine: please report it."
        )
    positive = expected > 0
    return float(np.max(difference[positive] / expected[positive], initial=0.0))


def matrix_products(spaces: Spaces, dtype: str) -> Callable[[], object]:
    """Returns what does the matrix products of both spaces, and nothing else.

    For every block of rows, X_block X^T of the [n, K] centred logits, summed over its
    columns so that it must be computed: the whole square, in blocks as wide as it. By
    TensorFlow's own kernels or XLA's, whichever are faster here.
    """
    points = [tf.constant(own) for own in spaces.centred_logits(dtype)]
    n = len(points[0])

    def block_sums(own: tf.Tensor, start: tf.Tensor, rows: int) -> tf.Tensor:
        block = tf.slice(own, [start, 0], [rows, own.shape[1]])
        return tf.reduce_sum(tf.matmul(block, own, transpose_b=True), axis=1)

    def candidate(jit_compile: bool) -> Callable[[], object]:
        compiled = tf.function(block_sums, jit_compile=jit_compile)
        return lambda: [
            # As arrays: a device's queue is waited for.
            compiled(own, tf.constant(start), min(_BLOCK_ROWS, n - start)).numpy()
            for own in points
            for start in range(0, n, _BLOCK_ROWS)
        ]

    candidates = [candidate(True), candidate(False)]
    for work in candidates:
        work()
    xla, plain = time_in_turn(*candidates, repetitions=2)
    return candidates[0 if min(xla) <= min(plain) else 1]


def square_roots(count: int, dtype: str) -> Callable[[], float]:
    """Returns what takes square roots, and little else, without leaving the cache.

    A tile is added to a sum of roots again and again, each time moved by the number of
    the round, so that no round's work can be left out or done once for all. It takes
    at least `count` roots, and a small part of a round more, and returns their sum.
    """
    rounds, rows = _rounds(count)
    number = tf.as_dtype(dtype)
    shifts = [index / _ROOTS_AT_ONCE for index in range(_ROOTS_AT_ONCE)]

    @tf.function(jit_compile=True)
    def compiled(tile: tf.Tensor, rounds: tf.Tensor) -> tf.Tensor:
        def step(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = tile + tf.cast(index, number)
            return index + 1, total + sum(tf.sqrt(moved + shift) for shift in shifts)

        _, total = tf.while_loop(
            lambda index, _: index < rounds, step, (0, tf.zeros_like(tile))
        )
        return tf.reduce_sum(total)

    values = np.random.default_rng(0).uniform(1.0, 2.0, (rows, _TILE_COLUMNS))
    tile = tf.constant(values, number)
    return lambda: float(compiled(tile, tf.constant(rounds)))


def _rounds(count: int) -> tuple[int, int]:
    """Returns the rounds and the rows of the tile that `count` roots take."""
    per_row = _ROOTS_AT_ONCE * _TILE_COLUMNS
    rounds = math.ceil(count / (per_row * _TILE_ROWS))
    return rounds, math.ceil(count / (rounds * per_row))


def _own_figures(
    n: int, k: int, seconds: Sequence[float], peak: float
) -> list[Measurement]:
    """Returns our own figures, from all seconds that were measured.

    Operations are those that each of the n (n - 1) / 2 pairs needs: per space 2 K of a
    scalar product, and 5 that make a distance of it (the sum of two squared lengths,
    twice the product, the difference, the maximum with 0, the root); for both spaces
    together 4 (difference, square, and one sum for each of the two samples). Of a form
    that needs more, they are not counted.
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
    """Measures the powers that seconds grow with: of n, and of k at half of n.

    From n / 8 to n >= 16 samples, and from k to 16 k classes. Draws `plot`, if given.
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
    measurements, notes = [], []
    for size, (label, seconds) in zip("nk", growths.items(), strict=True):
        power, _ = fit_power(seconds)
        measurements.append(Measurement(f"exponent_of_{size}", power, "power"))
        notes.append(
            f"Seconds grow with the power {power:.2f} of the {label}, from "
            f"{min(seconds):,} to {max(seconds):,}."
        )
    notes[-1] += left_out
    return measurements, notes


def fit_power(seconds: dict[int, list[float]]) -> tuple[float, float]:
    """Returns b and a of seconds = a size^b, fitted to the logarithms of medians."""
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
            sizes,
            middle,
            (middle - least, most - middle),
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
