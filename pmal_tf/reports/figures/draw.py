"""All figures that some runs have the data for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.errors import PmalError, first_line
from pmal_tf.reports.figures.benchmark_costs import draw_benchmark_costs
from pmal_tf.reports.figures.curves import draw_curves
from pmal_tf.reports.figures.embeddings import draw_embeddings, draw_prototype_number
from pmal_tf.reports.figures.repeated_mining import draw_repeated_mining
from pmal_tf.reports.figures.robustness import (
    draw_robustness_accuracy,
    draw_robustness_of_class,
)
from pmal_tf.reports.figures.style import Drawn, Skipped
from pmal_tf.workdir import read_json

OfTrial = Callable[[Path, Path, str], Drawn]
_OF_TRIAL: dict[str, OfTrial] = {
    "robustness_of_class": draw_robustness_of_class,
    "robustness_accuracy": draw_robustness_accuracy,
    "repeated_mining": draw_repeated_mining,
    "embeddings": draw_embeddings,
}
# Fig. 5a compares these numbers of prototypes.
_NUMBERS = (1, 10)
_NUMBER = "prototypes_per_class"


def draw_figures(
    experiments: Mapping[str, Sequence[Path]],
    out: Path,
    benchmarks: Sequence[Path] = (),
    *,
    detailed: Sequence[str] | None = None,
) -> tuple[list[Drawn], list[Skipped]]:
    """Draws all that can be drawn; what cannot is told, and stops nothing.

    Args:
        experiments: By name, folders of evaluated trials; pictures are of the first.
        out: The folder of figures.
        benchmarks: Files of `python -m pmal_tf.benchmark --json`.
        detailed: The experiments with pictures of their own; by default all.
    """
    jobs: list[tuple[str, Callable[[], Drawn | list[Drawn]]]] = []
    for experiment in experiments if detailed is None else detailed:
        trial = experiments[experiment][0]
        for kind, draw in _OF_TRIAL.items():
            name = f"{experiment}_{kind}"
            jobs.append((name, functools.partial(draw, trial, out, name)))
        curves = functools.partial(draw_curves, trial, out, experiment)
        jobs.append((f"{experiment}_curves", curves))
    for name, pair in _pairs_by_number(experiments):
        jobs.append((name, functools.partial(draw_prototype_number, pair, out, name)))
    if benchmarks:
        costs = functools.partial(draw_benchmark_costs, benchmarks, out, "costs")
        jobs.append(("costs", costs))
    drawn: list[Drawn] = []
    skipped: list[Skipped] = []
    for name, job in jobs:
        try:
            made = job()
            drawn += made if isinstance(made, list) else [made]
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


def _pairs_by_number(
    experiments: Mapping[str, Sequence[Path]],
) -> list[tuple[str, list[Path]]]:
    """Returns first trials of experiments that differ in the number of prototypes."""
    groups: dict[str, dict[int, tuple[str, Path]]] = {}
    for name, trials in experiments.items():
        inputs = _inputs(trials[0])
        if inputs is None:
            continue
        number = inputs.pop(_NUMBER, None)
        groups.setdefault(str(sorted(inputs.items())), {})[number] = (name, trials[0])
    return [
        (f"{group[_NUMBERS[1]][0]}_prototype_number", [group[n][1] for n in _NUMBERS])
        for group in groups.values()
        if set(_NUMBERS) <= set(group)
    ]


def _inputs(trial: Path) -> dict[str, Any] | None:
    """Returns the settings that an optimised model depends on.

    None where the stage was tidied away or its marker is damaged: then nobody knows
    what the trial may stand beside.
    """
    try:
        return dict(read_json(trial / "optimize" / "done.json")["inputs"])
    except (FileNotFoundError, KeyError, PmalError):
        return None
