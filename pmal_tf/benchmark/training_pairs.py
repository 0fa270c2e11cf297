"""Timing training steps two by two, and what else there is to measure of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import tensorflow as tf
from absl import logging

from pmal_tf.benchmark.measurement import (
    Measurement,
    Rates,
    Repeated,
    Times,
    compare,
    time_in_turn,
)
from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.benchmark.training_steps import TrainingStep, Variant

# A timed piece of work is one step, or as many as take about this long.
_LEAST_SECONDS = 0.25
_INPUTS = 50


@dataclass(frozen=True)
class ReadyStep:
    """A step that is compiled.

    Attributes:
        variant: Which it is.
        step: Takes it.
        first_seconds: What the first one took, compiling included.
        seconds: What a later one took, roughly.
        peak_bytes: By how much memory grows in a step.
    """

    variant: Variant
    step: TrainingStep
    first_seconds: float
    seconds: float
    peak_bytes: int

    @property
    def told(self) -> str:
        """Its name in tables."""
        graph = "XLA" if self.step.jit else "plain graph"
        return f"{self.variant.label}, K = {self.variant.num_classes}, {graph}"


@dataclass(frozen=True)
class Comparison:
    """Two steps to compare.

    Attributes:
        name: Of the measurement.
        ours: Name of a variant.
        reference: Name of another.
        of_rates: Whether to divide images a second, not seconds.
    """

    name: str
    ours: str
    reference: str
    of_rates: bool = False


class Ratios(Repeated):
    """Ratios of pairs; of an even number, the median is the lower of the middle two."""

    @property
    def median(self) -> float:
        """The middle one, which is that of one of the pairs."""
        return statistics.median_low(self.values)

    def __str__(self) -> str:
        return self.told(".3g")


@dataclass(frozen=True)
class Pairs:
    """What was measured of two steps.

    Attributes:
        comparison: What they are.
        seconds: Those of our step and of the other, pair by pair.
        batch_size: Images in a step.
    """

    comparison: Comparison
    seconds: tuple[tuple[float, float], ...]
    batch_size: int

    @property
    def ours(self) -> Times:
        """Those of our step."""
        return Times(tuple(own for own, _ in self.seconds))

    @property
    def reference(self) -> Times:
        """Those of the other."""
        return Times(tuple(other for _, other in self.seconds))

    @property
    def ratios(self) -> Ratios:
        """The ratios of the pairs."""
        return Ratios(tuple(pair.value for pair in self._each()))

    @property
    def measurement(self) -> Measurement:
        """The pair whose ratio is the median."""
        median = self.ratios.median
        return next(pair for pair in self._each() if pair.value == median)

    def seconds_of(self, name: str) -> tuple[float, ...]:
        """Returns the seconds of a variant, none if it is not of this comparison."""
        if name == self.comparison.ours:
            return self.ours.values
        return self.reference.values if name == self.comparison.reference else ()

    def _each(self) -> list[Measurement]:
        """Returns the measurement that each pair would be by itself."""
        name, images = self.comparison.name, self.batch_size
        if self.comparison.of_rates:
            return [compare(name, images / a, images / b) for a, b in self.seconds]
        return [compare(name, a, b) for a, b in self.seconds]


@dataclass(frozen=True)
class Alone:
    """What was measured of one step.

    Attributes:
        ready: The step.
        seconds: What it took, in every pair that it is in.
        batch_size: Images in it, prototypes not counted.
    """

    ready: ReadyStep
    seconds: tuple[float, ...]
    batch_size: int

    @property
    def rates(self) -> Rates:
        """Images a second."""
        return Rates(tuple(self.batch_size / seconds for seconds in self.seconds))

    @property
    def compile_seconds(self) -> float:
        """What the first step took longer."""
        return self.ready.first_seconds - Times(self.seconds).median

    @property
    def peak_mebibytes(self) -> float:
        """By how much memory grows in a step."""
        return self.ready.peak_bytes / 2**20

    @property
    def measurements(self) -> list[Measurement]:
        """What is written."""
        name = self.ready.variant.name
        return [
            Measurement(f"images_per_second_{name}", self.rates.median, "images/s"),
            Measurement(f"compile_seconds_{name}", self.compile_seconds, "s"),
            Measurement(f"peak_memory_mib_{name}", self.peak_mebibytes, "MiB"),
        ]


def get_ready(variant: Variant, step: TrainingStep) -> ReadyStep:
    """Compiles a step and takes some that no ratio is made of.

    Args:
        variant: Which it is.
        step: One that was never taken.

    Raises:
        PmalError: If memory cannot be measured here.
    """
    first = time_step(step)
    # Not of the first, which has the compiler's own memory; and what one has more than
    # the other is not the step's.
    peak = min(_peak_memory(step) for _ in range(2))
    ready = ReadyStep(variant, step, first, time_step(step), peak)
    logging.info("Ready after %.1f s: %s", first, ready.told)
    return ready


def time_step(step: TrainingStep) -> float:
    """Returns the seconds of one step."""
    (times,) = time_in_turn(step, repetitions=1)
    return times.values[0]


def _peak_memory(step: TrainingStep) -> int:
    """Returns by how many bytes memory grows while a step is taken, at its peak.

    Weights and what the optimiser keeps are there before. TensorFlow never gives back
    what its pools once had, so their own accounts are read: on a GPU that is all, on a
    CPU what the process takes beside the pool is added.

    Args:
        step: One that was taken before, so that the pool need not grow.

    Raises:
        PmalError: If the memory of the process is needed, and this is not Linux.
    """
    experimental = tf.config.experimental
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    device = "GPU:0" if on_gpu else "CPU:0"
    try:
        experimental.reset_memory_stats(device)
        before = experimental.get_memory_info(device)["current"]
    except ValueError:  # Without oneDNN there is no pool on a CPU, and no account.
        return peak_extra_memory(step)[1]
    beside = 0
    if on_gpu:
        step()
    else:
        _, beside = peak_extra_memory(step)
    return experimental.get_memory_info(device)["peak"] - before + beside


def time_pairs(
    comparisons: Sequence[Comparison],
    steps: Mapping[str, ReadyStep],
    batch_size: int,
    repetitions: int,
) -> list[Pairs]:
    """Times pair after pair, over and over.

    Each round begins with another pair, and in every second round the reference goes
    first. A round before them is not counted: for a while, new steps were seen to be
    slower.

    Args:
        comparisons: The pairs.
        steps: The steps that they name.
        batch_size: Images in a step.
        repetitions: Rounds that count.

    Returns:
        What was measured of each comparison.
    """
    seconds: list[list[tuple[float, float]]] = [[] for _ in comparisons]
    for number in range(repetitions + 1):
        for offset in range(len(comparisons)):
            index = (number + offset) % len(comparisons)
            comparison = comparisons[index]
            pair = steps[comparison.ours], steps[comparison.reference]
            seconds[index].append(_time_pair(*pair, reference_first=number % 2 == 1))
    return [
        Pairs(comparison, tuple(pairs[1:]), batch_size)
        for comparison, pairs in zip(comparisons, seconds, strict=True)
    ]


def _time_pair(
    ours: ReadyStep, reference: ReadyStep, *, reference_first: bool
) -> tuple[float, float]:
    """Returns the seconds of a step of each."""
    count = max(1, math.ceil(_LEAST_SECONDS / reference.seconds))
    works = [partial(_take, ready.step, count) for ready in (ours, reference)]
    order = -1 if reference_first else 1
    first, second = time_in_turn(*works[::order], repetitions=1)[::order]
    return first.values[0] / count, second.values[0] / count


def _take(step: TrainingStep, count: int) -> None:
    """Takes some steps."""
    for _ in range(count):
        step()


def input_share(steps: Iterable[ReadyStep]) -> float:
    """Returns the greatest share of a step that taking a batch from its input is."""
    return max(_seconds_to_take(ready.step.batches) / ready.seconds for ready in steps)


def _seconds_to_take(batches: tf.data.Dataset) -> float:
    """Returns the median of the seconds that a batch takes."""
    iterator = iter(batches)
    next(iterator)
    (times,) = time_in_turn(partial(next, iterator), repetitions=_INPUTS)
    return times.median
