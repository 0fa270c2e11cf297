"""What a benchmark measures, and how often."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pmal_tf.workdir import write_atomically


@dataclass(frozen=True)
class Measurement:
    """One figure of a benchmark.

    Attributes:
        name: What was measured.
        value: The figure.
        unit: Its unit.
        ours: What our code reached, where the figure compares.
        reference: What the reference reached.
    """

    name: str
    value: float
    unit: str
    ours: float | None = None
    reference: float | None = None


def compare(name: str, ours: float, reference: float) -> Measurement:
    """Returns the ratio of ours to the reference."""
    return Measurement(name, ours / reference, "ratio", ours, reference)


def write_measurements(path: Path, measurements: Sequence[Measurement]) -> None:
    """Writes measurements as a JSON list."""
    content = json.dumps([asdict(m) for m in measurements], indent=2) + "\n"
    write_atomically(path, lambda writing: writing.write_text(content))


@dataclass(frozen=True)
class Rates:
    """Repeated measurements of a rate.

    Attributes:
        values: One per repetition, per second.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return (
            f"{self.median:,.0f} (n = {len(self.values)}, "
            f"{min(self.values):,.0f} to {max(self.values):,.0f})"
        )


def measure_rate(work: Callable[[], int], *, repetitions: int, seconds: float) -> Rates:
    """Measures how many items a second `work` gets done.

    Args:
        work: Does a piece of work and returns how many items it was; called once
            before the clock starts.
        repetitions: How many rates to measure.
        seconds: For how long each, at least; `work` is called at least once.
    """
    work()
    rates = []
    for _ in range(repetitions):
        done, began = 0, time.perf_counter()
        elapsed = 0.0
        while elapsed < seconds or not done:
            done += work()
            elapsed = time.perf_counter() - began
        rates.append(done / elapsed)
    return Rates(tuple(rates))
