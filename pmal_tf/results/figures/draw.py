"""All figures that some runs have the data for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.results import figures
from pmal_tf.results.figures.figure import Drawn, Material, OfTrial, Picture, Skipped
from pmal_tf.results.figures.style import save
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.plugins import found_in


def draw_figures(material: Material, out: Path) -> tuple[list[Drawn], list[Skipped]]:
    """Draws all that can be drawn into a folder; what cannot be stops nothing.

    Returns:
        The figures of each experiment, then those of several; and those left out.
    """
    drawn, skipped = [], []
    for name, subject, draw in _jobs(material):
        try:
            drawn.append(save(draw(subject), out, name))
        except PmalError as error:
            skipped.append(Skipped(name, str(error)))
        except FileNotFoundError as error:
            skipped.append(Skipped(name, f"{error.filename} is missing"))
        except KeyError as error:
            skipped.append(Skipped(name, f"the run's files lack {error}"))
        except Exception as error:  # One bad file must not cost all other figures.
            logging.exception("Figure %s", name)
            reason = f"{type(error).__name__}: {first_line(error)}"
            skipped.append(Skipped(name, reason))
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
        if figure not in of_trials:
            for name, subject in figure.subjects(material):
                yield name, subject, figure.draw
