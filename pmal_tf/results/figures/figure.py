"""What a figure declares: a module of this folder lists its own as `FIGURES`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.results.collect.ablation_tables import AblationTable


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
class Drawn:
    """A figure that was drawn.

    Attributes:
        name: Stem of its files.
        title: What it shows.
        caption: What is needed to read it.
        png: The picture.
        svg: The same to be scaled.
    """

    name: str
    title: str
    caption: str
    png: Path
    svg: Path


@dataclass(frozen=True)
class Skipped:
    """A figure that was not drawn.

    Attributes:
        name: Stem that its files would have.
        reason: Why not.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class OfTrial:
    """A figure of one trial.

    Attributes:
        name: How the stem of its files ends, after the experiment's name.
        draw: Draws a trial's folder into a folder, under a stem. Raises a PmalError
            where the trial lacks what it takes.
    """

    name: str
    draw: Callable[[Path, Path, str], Drawn]


@dataclass(frozen=True)
class OfAll:
    """A figure of several experiments, or of something else.

    Attributes:
        subjects: What there is to draw, each with the stem of its files.
        draw: Draws one of them into a folder, under that stem.
    """

    subjects: Callable[[Material], Iterable[tuple[str, Any]]]
    draw: Callable[[Any, Path, str], Drawn]
