"""All figures that some runs have the data for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.results import figures
from pmal_tf.results.figures.figure import Drawn, Material, OfAll, OfTrial, Skipped
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.plugins import found_in


def draw_figures(material: Material, out: Path) -> tuple[list[Drawn], list[Skipped]]:
    """Draws all that can be drawn; what cannot is told, and stops nothing.

    Args:
        material: What to draw from.
        out: The folder of figures.

    Returns:
        The figures of each experiment, then those of several.
    """
    drawn: list[Drawn] = []
    skipped: list[Skipped] = []
    for name, subject, draw in _jobs(material):
        try:
            drawn.append(draw(subject, out, name))
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


def _jobs(
    material: Material,
) -> list[tuple[str, Any, Callable[[Any, Path, str], Drawn]]]:
    """Returns each figure's stem, what it is of, and what draws it."""
    declared = [figure for some in found_in(figures, "FIGURES") for figure in some]
    of_trials = [
        (f"{name}_{figure.name}", material.experiments[name][0], figure.draw)
        for name in material.detailed
        for figure in declared
        if isinstance(figure, OfTrial)
    ]
    of_all = [
        (name, subject, figure.draw)
        for figure in declared
        if isinstance(figure, OfAll)
        for name, subject in figure.subjects(material)
    ]
    return of_trials + of_all
