"""Tables 3, 4 and 5 of the paper, filled from whatever runs have their settings.

A cell is a set of settings, not a name: any run that differs from the paper's base
settings in just these fills it. Runs that differ in anything else, say in epochs or
dataset or library versions, make a table of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pmal_tf.results.collect.comparison import Comparison, paired_bootstrap
from pmal_tf.results.collect.numbers import metric_of
from pmal_tf.results.collect.paper import COMPARED_WITH, METHOD
from pmal_tf.results.collect.paper_ablations import BASE, PAPER_TABLES, Cell, PaperTable
from pmal_tf.results.collect.run_folders import Experiment, TrialRun

METRICS = {
    "dr.auroc": "AUROC DR",
    "pr.auroc": "AUROC PR",
    "mls.auroc": "AUROC MLS",
    "acc": "ACC",
}
# Settings that change what is told beside a method's results, or nothing at all.
BESIDE = ("compare", "scores", "control", "reject_rate", "mining_repeats")


@dataclass(frozen=True)
class CellResult:
    """What the runs with a cell's settings came to.

    Attributes:
        cell: The settings, and the paper's numbers.
        runs: The trials, by (trial, seed); empty where no run has these settings.
        differences: Per metric the difference to the base over the trials that both
            have, in [-1, 1]; empty for the base, and where there is no such trial.
        repeated: Trials passed over, since another run of the same settings is counted.
    """

    cell: Cell
    runs: dict[tuple[int, int], TrialRun]
    differences: dict[str, Comparison]
    repeated: tuple[TrialRun, ...] = ()

    def values(self, metric: str) -> list[float]:
        """Returns the measured values of a metric, fractions, in order of trial."""
        found = (_number(run, metric) for run in self.runs.values())
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class AblationTable:
    """One of the paper's tables, filled by runs that share all other settings.

    Attributes:
        paper: The table as printed.
        shared: The settings that all runs of it have, those swept left out.
        versions: The package versions that all runs of it have.
        rows: A result per cell, in the paper's order.
    """

    paper: PaperTable
    shared: dict[str, Any]
    versions: dict[str, str]
    rows: tuple[CellResult, ...]

    @property
    def filled(self) -> int:
        """Number of cells that runs have filled."""
        return sum(bool(row.runs) for row in self.rows)


@dataclass(frozen=True)
class Ordering:
    """Two cells that the paper puts in an order.

    Attributes:
        higher: Label of the cell with the paper's higher number.
        lower: Label of the other.
        metric: What they are compared by here, e.g. `dr.auroc`.
        paper_points: How far apart they are in the paper, in percent points, above 0.
        comparison: Higher minus lower over paired trials; None where there are none.
        is_listed: Whether the table is about this comparison.
    """

    higher: str
    lower: str
    metric: str
    paper_points: float
    comparison: Comparison | None
    is_listed: bool

    @property
    def verdict(self) -> str:
        """Whether the order holds here, in words."""
        if self.comparison is None:
            return "missing"
        if self.comparison.low is None:
            return self.comparison.verdict
        if self.comparison.ahead:
            return "holds"
        return "does not hold" if self.comparison.behind else self.comparison.verdict


def ablation_tables(experiments: Iterable[Experiment]) -> list[AblationTable]:
    """Fills the paper's ablation tables.

    Args:
        experiments: Everything that was run.

    Returns:
        For each table and each group of runs that share all other settings, that table,
        if at least two of its cells are filled.
    """
    groups: dict[str, list[TrialRun]] = {}
    runs = (run for experiment in experiments for run in experiment.trials)
    for run in (run for run in runs if run.result["method"] == METHOD):
        key = json.dumps([_shared_settings(run), run.versions], sort_keys=True)
        groups.setdefault(key, []).append(run)
    tables = [_fill(paper, runs) for paper in PAPER_TABLES for runs in groups.values()]
    return [table for table in tables if table.filled > 1]


def _shared_settings(run: TrialRun) -> dict[str, Any]:
    """Returns the settings of a run that no table varies.

    Nor do those of methods judged beside it, called `<method>.<setting>`, part runs.
    """
    left_out = (*BASE, *BESIDE, "seed")
    return {n: v for n, v in run.settings.items() if n not in left_out and "." not in n}


def _fill(paper: PaperTable, runs: Sequence[TrialRun]) -> AblationTable:
    """Fills a table from runs that share all settings that no table varies."""
    found = {cell.label: _runs_of(cell, runs) for cell in paper.cells}
    base = found[paper.base][0]
    rows = tuple(
        CellResult(
            cell,
            found[cell.label][0],
            {}
            if cell.label == paper.base
            else _differences(found[cell.label][0], base),
            found[cell.label][1],
        )
        for cell in paper.cells
    )
    return AblationTable(paper, _shared_settings(runs[0]), runs[0].versions, rows)


def _runs_of(
    cell: Cell, runs: Sequence[TrialRun]
) -> tuple[dict[tuple[int, int], TrialRun], tuple[TrialRun, ...]]:
    """Returns the runs that have a cell's settings, and those that repeat one."""
    wanted = {**BASE, **cell.overrides}
    fitting = [r for r in runs if all(r.settings.get(n) == wanted[n] for n in wanted)]
    counted: dict[tuple[int, int], TrialRun] = {}
    repeated = []
    for run in fitting:
        pair = (run.trial, run.settings["seed"])
        if pair in counted:
            repeated.append(run)
        else:
            counted[pair] = run
    return dict(sorted(counted.items())), tuple(repeated)


def _differences(
    runs: Mapping[tuple[int, int], TrialRun], base: Mapping[tuple[int, int], TrialRun]
) -> dict[str, Comparison]:
    """Compares two cells by every metric that was measured in common trials."""
    compared = {metric: compare_runs(runs, base, metric) for metric in METRICS}
    return {name: value for name, value in compared.items() if value is not None}


def _number(run: TrialRun, metric: str) -> float | None:
    """Returns a metric of the paper's method, None where it was not measured."""
    return metric_of(run.result, metric)


def compare_runs(
    a: Mapping[tuple[int, int], TrialRun],
    b: Mapping[tuple[int, int], TrialRun],
    metric: str,
) -> Comparison | None:
    """Compares PMAL in two cells over the trials that both have.

    Args:
        a: Runs of the first, by (trial, seed).
        b: Runs of the second.
        metric: E.g. `dr.auroc`.

    Returns:
        First minus second, None where no trial has both measured.
    """
    pairs = [
        (first, second)
        for key in a
        if key in b
        for first, second in [(_number(a[key], metric), _number(b[key], metric))]
        if first is not None and second is not None
    ]
    if not pairs:
        return None
    return paired_bootstrap([p[0] for p in pairs], [p[1] for p in pairs])


def orderings(table: AblationTable) -> list[Ordering]:
    """Looks for the orders of the paper's numbers in our own.

    Args:
        table: A filled table.

    Returns:
        All pairs of cells with different numbers in the paper, by each of its metrics;
        first those that the table is about, each cell beside the base among them.
    """
    found = []
    for printed, metric in COMPARED_WITH.items():
        rows = [row for row in table.rows if printed in row.cell.paper]
        for one, other in combinations(rows, 2):
            low, high = sorted((one, other), key=lambda row: row.cell.paper[printed])
            points = high.cell.paper[printed] - low.cell.paper[printed]
            if points == 0:
                continue
            pair = {low.cell.label, high.cell.label}
            found.append(
                Ordering(
                    higher=high.cell.label,
                    lower=low.cell.label,
                    metric=metric,
                    paper_points=points,
                    comparison=compare_runs(high.runs, low.runs, metric),
                    is_listed=table.paper.base in pair or pair in table.paper.about,
                )
            )
    return sorted(found, key=lambda ordering: not ordering.is_listed)
