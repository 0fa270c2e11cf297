"""What a figure declares: a module of this folder lists its own as `FIGURES`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmal_tf.results.collect.ablation_tables import AblationTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Material:
    """What figures are made of.

    Attributes:
        experiments: By name, folders of evaluated trials; pictures are of the first.
        detailed: The experiments with pictures of their own.
        tables: The paper's ablation tables, as far as they are filled.
        benchmarks: Files of `python -m pmal_tf.benchmark --json`.
    """

    experiments: Mapping[str, Sequence[Path]]
    detailed: Sequence[str]
    tables: Sequence[AblationTable] = ()
    benchmarks: Sequence[Path] = ()


@dataclass(frozen=True)
class Picture:
    """A figure before it is written: what it shows, and what is needed to read it."""

    figure: Figure
    title: str
    caption: str


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: `name` is the stem of its files."""

    name: str
    title: str
    caption: str
    png: Path
    svg: Path


@dataclass(frozen=True)
class Skipped:
    """A figure that could not be drawn: the stem of its files, and why not."""

    name: str
    reason: str


@dataclass(frozen=True)
class OfTrial:
    """A figure of one trial.

    `name` is how the stem of its files ends, after the experiment's name. `draw` takes
    a trial's folder, and raises a PmalError where that lacks what the figure takes.
    """

    name: str
    draw: Callable[[Path], Picture]


@dataclass(frozen=True)
class OfAll:
    """A figure of several experiments, or of something else.

    `subjects` says what there is to draw, each with the stem of its files, and `draw`
    takes one of them.
    """

    subjects: Callable[[Material], Iterable[tuple[str, Any]]]
    draw: Callable[[Any], Picture]
