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

import numpy as np

from pmal_tf.benchmark.growth import LEAST_SAMPLES, PLOT_SUFFIXES, measure_growth
from pmal_tf.benchmark.measurement import (
    Finding,
    Measurement,
    Times,
    compare,
    hardware,
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
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime.errors import PmalError

REFERENCES = ("scipy", "matmul", "sqrt")


def run(
    *,
    n: int,
    k: int,
    dtype: str = "float32",
    memory_mb: int = MiningSettings.mining_memory_mb,
    repetitions: int = 5,
    references: Sequence[str] = REFERENCES,
    scaling: bool = False,
    plot: Path | None = None,
) -> tuple[str, list[Measurement]]:
    """Measures the robustness of random embeddings in two spaces.

    Args:
        n: Number of samples, at least 2.
        k: Number of classes, at least 2.
        dtype: Number type of our tiles, `"float32"` or `"float64"`.
        memory_mb: Our memory budget in MiB.
        repetitions: How often ours and each reference are timed, in turn.
        references: Which of `REFERENCES` to measure beside, if any.
        scaling: Whether to measure how cost grows with n and k.
        plot: The picture of that growth to draw, if any; has it measured.

    Returns:
        A table, and the measurements.

    Raises:
        PmalError: If a setting is out of range, the budget is too small, or our
            exponents are not scipy's.
    """
    _check(n, k, repetitions, references, scaling, plot)
    mine = partial(topology_robustness, dtype=dtype, memory_mb=memory_mb)
    spaces = random_spaces(n, k)

    def ours() -> np.ndarray:
        return mine(spaces.embeddings, spaces.kernels).exponent

    # Before the references take memory; the first call compiles, the second does not.
    exponent, first_peak = peak_extra_memory(ours)
    peak = max(first_peak, peak_extra_memory(ours)[1])
    findings = _beside_references(
        spaces, ours, exponent, peak, dtype, repetitions, references
    )
    seconds = [s for found in findings for s in found.ours]
    if not seconds:
        # Beside no reference, or scipy alone, which has no room.
        (times,) = time_in_turn(ours, repetitions=repetitions)
        seconds = list(times.values)
    findings.append(_alone(n, k, seconds, peak))
    if scaling or plot:
        findings.append(measure_growth(n, k, mine, plot))
    title = f"{n:,} samples, {k:,} classes, {dtype}, budget {memory_mb} MiB."
    return _report(title, findings), [m for f in findings for m in f.measurements]


def _check(
    n: int,
    k: int,
    repetitions: int,
    references: Sequence[str],
    scaling: bool,
    plot: Path | None,
) -> None:
    """Checks the settings."""
    least_n = LEAST_SAMPLES if scaling or plot else 2
    for name, value, least in (
        ("n", n, least_n),
        ("k", k, 2),
        ("repetitions", repetitions, 1),
    ):
        if value < least:
            because = ", to see growth" if least == LEAST_SAMPLES else ""
            raise PmalError(
                f"`{name}` must be at least {least}{because}. Received: "
                f"--{name}={value}"
            )
    if not set(references) <= set(REFERENCES):
        raise PmalError(
            f"`references` must be some of {', '.join(REFERENCES)}, or nothing. "
            f"Received: --references={','.join(references)}"
        )
    if plot and plot.suffix.lower() not in PLOT_SUFFIXES:
        raise PmalError(
            f"`plot` must be the name of a {', '.join(PLOT_SUFFIXES)} file. Received: "
            f"--plot={plot}"
        )


def _beside_references(
    spaces: Spaces,
    ours: Callable[[], np.ndarray],
    exponent: np.ndarray,
    peak: int,
    dtype: str,
    repetitions: int,
    references: Sequence[str],
) -> list[Finding]:
    """Measures beside the references that are asked for, in the order of all."""
    n = len(exponent)
    findings = []
    # One after the other, so that each has the memory of the one before.
    if "scipy" in references:
        findings.append(_beside_scipy(spaces, ours, exponent, peak, repetitions))
    for name, label, make in (
        ("matmul", "matrix products", lambda: matrix_products(spaces, dtype)),
        ("sqrt", "square roots", lambda: square_roots(n * (n + 1), dtype)),
    ):
        if name in references:
            found = _beside(
                f"{name}_time_ratio", f"{label}, {dtype}", ours, make(), repetitions
            )
            findings.append(found)
    return findings


def _beside(
    name: str,
    label: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    repetitions: int,
    measure: Callable[[str, float, float], Measurement] = compare,
) -> Finding:
    """Times ours and a reference in turn.

    Args:
        name: Of the measurement.
        label: Of the reference, in the table.
        ours: Called before.
        reference: Called once untimed.
        repetitions: How often each is timed.
        measure: Makes the measurement of the name and both medians.
    """
    reference()
    own, other = time_in_turn(ours, reference, repetitions=repetitions)
    measurement = measure(name, own.median, other.median)
    ratio = f"{own.median / other.median:.3g}"
    return Finding(
        ours=own.values,
        measurements=(measurement,),
        rows=((label, str(own), str(other), ratio),),
    )


def _beside_scipy(
    spaces: Spaces,
    ours: Callable[[], np.ndarray],
    exponent: np.ndarray,
    peak: int,
    repetitions: int,
) -> Finding:
    """Compares time, memory and result with scipy's, where that fits into memory.

    Memory is compared with the variant that takes less of it, the stricter comparison.
    """
    reason = why_not_scipy(len(exponent))
    if reason:
        return Finding(sentences=(reason,))
    route = ScipyRoute(spaces)
    expected, scipy_peak = peak_extra_memory(route.in_place)
    difference = check_agreement(exponent, expected, route.mean_distance())
    variants = [
        _beside(name, f"scipy's cdist, {label}", ours, work, repetitions, speedup)
        for name, label, work in (
            ("scipy_speedup", "as one writes it", route.as_written),
            ("scipy_in_place_speedup", "all in place", route.in_place),
        )
    ]
    as_written, in_place = (m for found in variants for m in found.measurements)
    # The smallest matrices may not even take a page.
    own_mib, scipy_mib = peak / 2**20, max(scipy_peak, 4096) / 2**20
    memory = compare("memory_fraction", own_mib, scipy_mib)
    return Finding(
        ours=tuple(s for found in variants for s in found.ours),
        measurements=(as_written, in_place, memory),
        rows=tuple(row for found in variants for row in found.rows),
        sentences=(
            f"Ours is {as_written.value:.3g} times as fast as scipy's cdist as one "
            f"writes it, and {in_place.value:.3g} times as fast as all in place.",
            "Both compute in float64, with distances in matrices that are there before "
            "the clock starts. As one writes it, NumPy makes new matrices of their "
            "differences and squares at each call, which costs page faults; all in "
            "place, it makes none.",
            f"All in place, which needs less memory, scipy takes {scipy_mib:,.0f} MiB "
            f"at its peak, both matrices included; ours takes {memory.value:.3g} of "
            "that.",
            "The largest relative difference of our exponents from scipy's is "
            f"{difference:.1e}.",
        ),
    )


def _alone(n: int, k: int, seconds: Sequence[float], peak: int) -> Finding:
    """Returns our own figures, from all seconds that were measured.

    Operations are those that each of the n (n - 1) / 2 pairs needs: per space 2 K of a
    scalar product, and 5 that make a distance of it (the sum of two squared lengths,
    twice the product, the difference, the maximum with 0, the root); for both spaces
    together 4 (difference, square, and one sum for each of the two samples).
    """
    times, pairs = Times(tuple(seconds)), n * (n - 1) / 2
    rate = pairs / times.median
    gflops = rate * (2 * (2 * k + 5) + 4) / 1e9
    mebibytes = peak / 2**20
    return Finding(
        measurements=(
            Measurement("seconds", times.median, "s"),
            Measurement("pairs_per_second", rate, "pairs/s"),
            Measurement("gflops", gflops, "GFLOP/s"),
            Measurement("peak_memory_mib", mebibytes, "MiB"),
        ),
        sentences=(
            f"Seconds that ours takes, in all timed calls: {times}. That is {rate:.3g} "
            f"pairs of samples and {gflops:.3g} GFLOP a second. Ours takes "
            f"{mebibytes:,.0f} MiB at its peak, beyond its inputs.",
        ),
    )


def _report(title: str, findings: Sequence[Finding]) -> str:
    """Renders what was found."""
    header = ("reference", "ours, s", "reference, s", "ours / reference")
    rows = [row for found in findings for row in found.rows]
    sentences = [sentence for found in findings for sentence in found.sentences]
    table = [markdown_table(header, rows)] if rows else []
    lines = [title, hardware(), "", *table, *sentences]
    return "\n".join(lines) + "\n"
