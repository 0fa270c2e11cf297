"""What a benchmark measures, and how often."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pmal_tf.runtime.files import write_atomically


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


def speedup(name: str, ours: float, reference: float) -> Measurement:
    """Returns how many times ours is as fast, from the seconds of both."""
    return Measurement(name, reference / ours, "ratio", ours, reference)


def write_measurements(path: Path, measurements: Sequence[Measurement]) -> None:
    """Writes measurements as a JSON list."""
    content = json.dumps([asdict(m) for m in measurements], indent=2) + "\n"
    write_atomically(path, lambda writing: writing.write_text(content))


@dataclass(frozen=True)
class Repeated:
    """Repeated measurements of one thing.

    Attributes:
        values: One per repetition.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def told(self, form: str) -> str:
        """Returns median, number and range, with numbers in a format."""
        middle, least, most = (
            format(value, form)
            for value in (self.median, min(self.values), max(self.values))
        )
        return f"{middle} (n = {len(self.values)}, {least} to {most})"


class Rates(Repeated):
    """Repeated measurements of a rate, per second."""

    def __str__(self) -> str:
        return self.told(",.0f")


class Times(Repeated):
    """Repeated measurements of how long something takes, in seconds."""

    def __str__(self) -> str:
        return self.told(".3g" if self.median < 100 else ",.0f")


@dataclass(frozen=True)
class Finding:
    """What was found beside one reference.

    Attributes:
        ours: Our seconds.
        measurements: What is written.
        rows: Of the table of references.
        sentences: What else is to be said.
    """

    ours: tuple[float, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    sentences: tuple[str, ...] = ()


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


def time_in_turn(*works: Callable[[], object], repetitions: int) -> list[Times]:
    """Times pieces of work one after the other, over and over.

    What slows the machine down for a while then falls on each of them.

    Args:
        works: Each called `repetitions` times; call each once before, so that none is
            timed while it compiles.
        repetitions: How often.

    Returns:
        The seconds of each.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions):
        for work, own in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work()
            own.append(time.perf_counter() - began)
    return [Times(tuple(own)) for own in seconds]


def hardware() -> str:
    """Says what this runs on: processor, cores that may be used, GPUs."""
    import tensorflow as tf

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        processor = model.partition(":")[2].strip()
    cores = os.cpu_count()
    with contextlib.suppress(AttributeError):  # Linux alone has it.
        cores = len(os.sched_getaffinity(0))
    details = tf.config.experimental.get_device_details
    gpus = [
        details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return f"Hardware: {cores} cores, {processor}; {', '.join(gpus) or 'no GPU'}."
