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

from pmal_tf.results.collect.comparison import Comparison, compare_measured
from pmal_tf.results.collect.paper import (
    BASE,
    COMPARED_WITH,
    METHOD,
    PAPER_TABLES,
    Cell,
    PaperTable,
)
from pmal_tf.results.collect.run_folders import Experiment, TrialRun
from pmal_tf.results.collect.summary import metric_of

METRICS = {
    "dr.auroc": "AUROC DR",
    "pr.auroc": "AUROC PR",
    "mls.auroc": "AUROC MLS",
    "acc": "ACC",
}
# Settings that change what stands beside a method's results, or nothing at all.
BESIDE = ("compare", "scores", "control", "reject_rate", "mining_repeats")
# What a comparison says of the higher cell, of the order.
_ORDER_WORDS = {"ahead": "holds", "behind": "does not hold"}


@dataclass(frozen=True)
class CellResult:
    """What the runs with a cell's settings came to.

    Attributes:
        runs: The trials, by (trial, seed); empty where no run has these settings.
        repeated: Trials passed over, since another run of the same settings is counted.
        differences: Per metric the difference to the base over the trials that both
            have, in [-1, 1]; empty for the base, and where there is no such trial.
    """

    cell: Cell
    runs: dict[tuple[int, int], TrialRun]
    repeated: list[TrialRun]
    differences: dict[str, Comparison]

    def values(self, metric: str) -> list[float]:
        """Returns the measured values of a metric, fractions, in order of trial."""
        found = (metric_of(run.result, metric) for run in self.runs.values())
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
    rows: list[CellResult]


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
    def brief(self) -> str:
        """Whether the order holds here, in a word or three."""
        brief = self.comparison.brief if self.comparison else "missing"
        return _ORDER_WORDS.get(brief, brief)

    @property
    def verdict(self) -> str:
        """The same, and why it cannot be said where it cannot."""
        verdict = self.comparison.verdict if self.comparison else "missing"
        return _ORDER_WORDS.get(verdict, verdict)


def ablation_tables(experiments: Iterable[Experiment]) -> list[AblationTable]:
    """Fills the paper's ablation tables.

    Returns:
        For each table and each group of runs that share all other settings, that table,
        if at least two of its cells are filled.
    """
    groups: dict[str, list[TrialRun]] = {}
    for run in (run for experiment in experiments for run in experiment.trials):
        if run.result["method"] == METHOD:
            key = json.dumps([_shared_settings(run), run.versions], sort_keys=True)
            groups.setdefault(key, []).append(run)
    tables = [_fill(paper, runs) for paper in PAPER_TABLES for runs in groups.values()]
    return [table for table in tables if sum(bool(row.runs) for row in table.rows) > 1]


def _shared_settings(run: TrialRun) -> dict[str, Any]:
    """Returns the settings of a run that no table varies.

    Nor do those of methods judged beside it, called `<method>.<setting>`, part runs.
    """
    left_out = (*BASE, *BESIDE, "seed")
    return {n: v for n, v in run.settings.items() if n not in left_out and "." not in n}


def _fill(paper: PaperTable, runs: Sequence[TrialRun]) -> AblationTable:
    """Fills a table from runs that share all settings that no table varies."""
    rows = [_runs_of(cell, runs) for cell in paper.cells]
    base = next(row for row in rows if row.cell.label == paper.base)
    for row in rows:
        for metric in METRICS if row is not base else ():
            difference = compare_runs(row.runs, base.runs, metric)
            if difference is not None:
                row.differences[metric] = difference
    return AblationTable(paper, _shared_settings(runs[0]), runs[0].versions, rows)


def _runs_of(cell: Cell, runs: Sequence[TrialRun]) -> CellResult:
    """Returns the runs that have a cell's settings, and those that repeat one."""
    wanted = {**BASE, **cell.overrides}
    counted: dict[tuple[int, int], TrialRun] = {}
    repeated = []
    for run in runs:
        if any(run.settings.get(name) != value for name, value in wanted.items()):
            continue
        if counted.setdefault((run.trial, run.settings["seed"]), run) is not run:
            repeated.append(run)
    return CellResult(cell, dict(sorted(counted.items())), repeated, {})


def compare_runs(
    a: Mapping[tuple[int, int], TrialRun],
    b: Mapping[tuple[int, int], TrialRun],
    metric: str,
) -> Comparison | None:
    """Compares PMAL in two cells, whose runs are given by (trial, seed).

    Returns:
        First minus second over the trials that both have measured, None for no trial.
    """
    common = [(a[key].result, b[key].result) for key in a if key in b]
    return compare_measured(
        [(metric_of(x, metric), metric_of(y, metric)) for x, y in common]
    )


def orderings(table: AblationTable) -> list[Ordering]:
    """Looks for the orders of the paper's numbers in our own.

    Returns:
        All pairs of cells with different numbers in the paper, by each of its metrics;
        first those that the table is about, each cell beside the base among them.
    """
    found = []
    for printed, metric in COMPARED_WITH.items():
        rows = [row for row in table.rows if printed in row.cell.paper]
        for pair in combinations(rows, 2):
            low, high = sorted(pair, key=lambda row: row.cell.paper[printed])
            points = high.cell.paper[printed] - low.cell.paper[printed]
            labels = {low.cell.label, high.cell.label}
            ordering = Ordering(
                higher=high.cell.label,
                lower=low.cell.label,
                metric=metric,
                paper_points=points,
                comparison=compare_runs(high.runs, low.runs, metric),
                is_listed=table.paper.base in labels or labels in table.paper.about,
            )
            found += [ordering] if points else []
    return sorted(found, key=lambda ordering: not ordering.is_listed)
