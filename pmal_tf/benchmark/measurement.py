"""The figures of a benchmark, and the timer that all of them use."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime.environment import hardware


@dataclass(frozen=True)
class Measurement:
    """One figure of a benchmark; the first five fields go into the JSON file.

    Attributes:
        name: What was measured.
        value: The figure, in `unit`.
        ours: What our code reached, where the figure compares.
        reference: What the reference reached.
        sides: Unit of both.
        samples: Repeated measurements: of ours and the reference, or of the value.
        note: What else a reader is to know.
    """

    name: str
    value: float
    unit: str
    ours: float | None = None
    reference: float | None = None
    sides: str = "s"
    samples: tuple[Sequence[float], ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Returns what `--json` writes."""
        names = ("name", "value", "unit", "ours", "reference")
        return {name: getattr(self, name) for name in names}

    def as_row(self) -> list[str]:
        """Returns the row of the table."""
        value = f"{spread([self.value])} {self.unit}"
        if self.ours is None or self.reference is None:
            repeated = f"{spread(self.samples[0])} {self.unit}" if self.samples else ""
            return [self.name, value, repeated, "", self.note]
        samples = self.samples or ([self.ours], [self.reference])
        cells = [f"{spread(values)} {self.sides}" for values in samples]
        return [self.name, value, *cells, self.note]


def single(
    name: str, values: Sequence[float], unit: str, note: str = ""
) -> Measurement:
    """Returns the median of repeated measurements, of one that stands alone."""
    return Measurement(name, median(values), unit, samples=(values,), note=note)


def compare(
    name: str,
    ours: Sequence[float],
    reference: Sequence[float],
    *,
    figure: Callable[[float, float], float] = operator.truediv,
    unit: str = "ratio",
    sides: str = "s",
    note: str = "",
) -> Measurement:
    """Returns a figure of our median and the reference's: by default their ratio."""
    own, other = median(ours), median(reference)
    samples = (ours, reference)
    return Measurement(name, figure(own, other), unit, own, other, sides, samples, note)


def times_as_fast(ours: float, reference: float) -> float:
    """Returns how many times ours is as fast, from the seconds of both."""
    return reference / ours


def render(
    title: str, measurements: Iterable[Measurement], notes: Iterable[str] = ()
) -> str:
    """Returns a text of all measurements, and of what else is to be said."""
    header = ("figure", "value", "ours: median (n, range)", "reference", "")
    table = markdown_table(header, [found.as_row() for found in measurements])
    return "\n".join([title, f"Hardware: {hardware()}.", "", table, *notes]) + "\n"


def spread(values: Sequence[float]) -> str:
    """Returns e.g. `1.25 (n = 2, 1 to 1.5)`: the median, their number and range."""
    middle = median(values)
    form = ".3g" if middle < 100 else ",.0f"
    if len(values) == 1:
        return f"{middle:{form}}"
    ends = f"{min(values):{form}} to {max(values):{form}}"
    return f"{middle:{form}} (n = {len(values)}, {ends})"


def time_in_turn(
    *works: Callable[[], object], repetitions: int, least_seconds: float = 0.0
) -> list[list[float]]:
    """Times pieces of work one after the other, over and over.

    What slows the machine down for a while then falls on each of them. Call each once
    before, so that none is timed while it compiles. A repetition is as many calls as
    take `least_seconds`, at least one.

    Returns:
        For each work the seconds of a call, one number per repetition.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for work, own in zip(works, seconds, strict=True):
            calls, elapsed, began = 0, 0.0, time.perf_counter()
            while not calls or elapsed < least_seconds:
                work()
                calls += 1
                elapsed = time.perf_counter() - began
            own.append(elapsed / calls)
    return seconds
