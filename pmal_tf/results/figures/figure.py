"""What a figure declares, in `FIGURES` of a module of this folder, and drawing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from absl import logging

from pmal_tf.results import figures
from pmal_tf.results.collect.ablation_tables import AblationTable
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.plugins import found_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Material:
    """What figures are made of.

    Attributes:
        experiments: By name, folders of evaluated trials; pictures are of the first.
        detailed: The experiments with pictures of their own.
        tables: The paper's ablation tables, as far as they are filled.
        benchmarks: Entries of `python -m pmal_tf.benchmark --json`, with their `file`.
    """

    experiments: Mapping[str, Sequence[Path]]
    detailed: Sequence[str]
    tables: Sequence[AblationTable] = ()
    benchmarks: Sequence[Mapping[str, Any]] = ()


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


# What was drawn, and by name why the others were not.
Figures: TypeAlias = tuple[list[Drawn], dict[str, str]]


def draw_figures(material: Material, out: Path) -> Figures:
    """Draws all that can be drawn into a folder; what cannot be stops nothing.

    The figures of each experiment come first, then those of several.
    """
    from pmal_tf.results.figures.style import save  # Matplotlib takes a second.

    drawn, skipped = [], {}
    for name, subject, draw in _jobs(material):
        try:
            drawn.append(save(draw(subject), out, name))
            continue
        except PmalError as error:
            reason = str(error)
        except FileNotFoundError as error:
            reason = f"{error.filename} is missing"
        except KeyError as error:
            reason = f"the run's files lack {error}"
        except Exception as error:  # One bad file must not cost all other figures.
            logging.exception("Figure %s", name)
            reason = f"{type(error).__name__}: {first_line(error)}"
        skipped[name] = reason
    return drawn, skipped


def _jobs(material: Material) -> Iterator[tuple[str, Any, Callable[[Any], Picture]]]:
    """Yields each figure's stem, what it is of, and what draws it."""
    declared = [figure for some in found_in(figures, "FIGURES") for figure in some]
    of_trials = [figure for figure in declared if isinstance(figure, OfTrial)]
    for name in material.detailed:
        for figure in of_trials:
            trial = material.experiments[name][0]
            yield f"{name}_{figure.name}", trial, figure.draw
    for figure in declared:
        if isinstance(figure, OfAll):
            for name, subject in figure.subjects(material):
                yield name, subject, figure.draw
