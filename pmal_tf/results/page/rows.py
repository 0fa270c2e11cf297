"""The tables of a report: what stands in each cell, whatever it looks like."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pmal_tf.results.collect.ablation_tables import (
    METRICS,
    AblationTable,
    CellResult,
    Ordering,
)
from pmal_tf.results.collect.comparison import Comparison
from pmal_tf.results.collect.numbers import in_percent, metric_titles, spread
from pmal_tf.results.collect.records import hardware
from pmal_tf.results.collect.run_folders import Experiment, TrialRun
from pmal_tf.results.collect.summary import paper_metrics
from pmal_tf.results.scores.registry import scores_in

PAPER_TITLES = {"acc": "ACC", "auroc": "AUROC"}


class Cell(NamedTuple):
    """An entry of a table.

    `note` is a smaller line below. `tone` is `good`, `bad`, `missing` or nothing, never
    the only bearer of a meaning. `words` says that it is a sentence, not a number.
    """

    text: str
    note: str = ""
    tone: str = ""
    words: bool = False


class Row(NamedTuple):
    """Cells, the first names the row; `look` is `main`, `quoted` or nothing."""

    cells: tuple[Cell, ...]
    look: str = ""


class Table(NamedTuple):
    """A table: as many cells in each row as titles in the header."""

    header: tuple[str, ...]
    rows: list[Row]


MISSING = Cell("missing", tone="missing")


def row(*entries: Cell | str, look: str = "") -> Row:
    """Returns a row; a plain string is a cell that is nothing but that text."""
    return Row(tuple(Cell(e) if isinstance(e, str) else e for e in entries), look)


def points(difference: float) -> str:
    """Renders a difference of fractions in percent points, with its sign."""
    # Adding 0 takes the sign from a rounded -0.0.
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Renders the interval of a difference in points."""
    if low is None or high is None:
        return "none"
    return f"{points(low)} to {points(high)}"


def percent_of_paper(
    paper: Mapping[str, float], metrics: Mapping[str, str]
) -> list[str]:
    """Renders the paper's numbers in the columns of `metrics`, empty for the others."""
    return [f"{100 * paper[m]:.1f}" if m in paper else "" for m in metrics]


def results_table(experiments: Sequence[Experiment]) -> Table:
    """Returns the compact table: every experiment, model and score."""
    metrics = metric_titles(_models(experiments), ("auroc",))
    rows = []
    for experiment in experiments:
        head = (experiment.result["protocol"], str(len(experiment.trials)))
        for model, title in experiment.models.items():
            is_own = model == experiment.method
            cells = [_metric_cell(experiment, model, m, is_own) for m in metrics]
            look = "main" if is_own else ""
            rows.append(row(f"{experiment.name}, {title}", *head, *cells, look=look))
        paper = paper_metrics(experiment.summary)
        if paper:
            name = f"{experiment.name}, {experiment.title} in the paper"
            quoted = percent_of_paper(paper, metrics)
            rows.append(row(name, "paper", "", *quoted, look="quoted"))
    return Table(("experiment and model", "protocol", "n", *metrics.values()), rows)


def _models(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Returns the averages of every model of some experiments."""
    return [m for e in experiments for m in e.summary["models"].values()]


def _spread_cell(entry: Mapping[str, Any] | None) -> Cell:
    """Returns mean and standard deviation in percent, or `missing`."""
    return Cell(in_percent(entry)) if entry else MISSING


def _metric_cell(
    experiment: Experiment, model: str, metric: str, with_verdict: bool = False
) -> Cell:
    """Returns a metric of a model, a dash for a score that the model does not have."""
    metrics = experiment.summary["models"].get(model, {metric: None})
    if metric not in metrics:
        return Cell("-")
    cell = _spread_cell(metrics[metric])
    compared = experiment.against_baseline(metric) if with_verdict else None
    if compared is None:
        return cell
    few = "too few pairs" if compared.low is None else "too close"
    decided = compared.ahead or compared.behind
    return cell._replace(note=compared.verdict if decided else few)


def models_table(experiment: Experiment) -> Table:
    """Puts the models of an experiment and the paper's numbers beside each other."""
    summary = experiment.summary
    metrics = metric_titles(summary["models"].values())
    rows = []
    for model, title in experiment.models.items():
        look = "main" if model == experiment.method else ""
        cells = [_metric_cell(experiment, model, metric) for metric in metrics]
        rows.append(row(title, *cells, look=look))
    paper = paper_metrics(summary)
    if paper:
        ours = {m: summary["models"][experiment.method].get(m) for m in paper}
        gap = {m: points(v["mean"] - paper[m]) for m, v in ours.items() if v}
        name = f"{experiment.title} in the paper"
        rows.append(row(name, *percent_of_paper(paper, metrics), look="quoted"))
        gaps = [gap.get(metric, "") for metric in metrics]
        rows.append(row("ours - paper, points", *gaps, look="quoted"))
    return Table(("model", *metrics.values()), rows)


def baseline_table(experiment: Experiment) -> Table:
    """Says by which metrics a method is ahead of its baseline."""
    rows = []
    for metric, title in metric_titles(_models([experiment])).items():
        compared = experiment.against_baseline(metric)
        if compared is None:
            continue
        by_trial = ", ".join(map(points, compared.differences))
        rows.append(
            row(
                title,
                points(compared.mean_difference),
                interval(compared.low, compared.high),
                by_trial,
                Cell(compared.verdict, tone=_tone(compared), words=True),
            )
        )
    header = ("metric", "mean", "95 % interval", "by trial", f"{experiment.title} is")
    return Table(header, rows)


def _tone(comparison: Comparison) -> str:
    return "good" if comparison.ahead else "bad" if comparison.behind else ""


def thresholds_table(rejection: Mapping[str, Any]) -> Table:
    """Says what thresholds reject, from the `rejection` of a summary."""
    rows = []
    for score in scores_in(rejection):
        sides = rejection[score.field]
        cells = (_spread_cell(sides[n]) for n in ("known_rejected", "unknown_rejected"))
        rows.append(row(score.title, *cells))
    return Table(("rule", "known rejected", "unknown rejected"), rows)


def seconds_table(trials: Sequence[TrialRun]) -> Table:
    """Says how long each stage took."""
    names = dict.fromkeys(name for run in trials for name in run.seconds)
    taken = {n: [r.seconds[n] for r in trials if n in r.seconds] for n in names}
    taken["all stages"] = [sum(run.seconds.values()) for run in trials]
    rows = [
        row(
            name,
            f"{statistics.fmean(seconds):.1f}",
            f"{max(seconds):.1f}",
            str(len(seconds)),
            look="" if name in names else "main",
        )
        for name, seconds in taken.items()
    ]
    return Table(("stage", "mean", "longest", "trials"), rows)


def environments(trials: Sequence[TrialRun]) -> dict[str, str]:
    """Returns what trials ran on, each different machine once, and by which trials."""
    seen: dict[str, list[str]] = {}
    for run in trials:
        versions = ", ".join(f"{name} {v}" for name, v in run.versions.items())
        text = (
            f"{hardware(run.environment)}; "
            f"{run.environment.get('platform', 'platform unknown')}; {versions}; seed "
            f"{run.environment.get('seed', '?')}; git commit "
            f"{run.environment.get('git_commit') or 'unknown'}"
        )
        seen.setdefault(text, []).append(str(run.trial))
    return {text: ", ".join(numbers) for text, numbers in seen.items()}


def unlike_paper(experiment: Experiment) -> str:
    """Names in what a run is plainly not the paper's, empty where nothing is."""
    config, found = experiment.config, []
    protocol = experiment.result["protocol"]
    if protocol != "paper":
        found.append(f"protocol {protocol}")
    if config.get("width", 1) != 1:
        found.append(f"width {config['width']:g}")
    # 600 epochs on small images, 120 on ImageNet.
    usual = 120 if str(config.get("dataset")).startswith("imagenet") else 600
    if config.get("epochs") != usual:
        found.append(f"{config.get('epochs')} epochs for {usual}")
    if config.get("train_images_per_class"):
        found.append(f"{config['train_images_per_class']} training images per class")
    return ", ".join(found)


def cells_table(table: AblationTable) -> Table:
    """Puts our numbers of an ablation table beside the paper's."""
    cells = table.paper.cells
    printed = [n for n in PAPER_TITLES if any(n in cell.paper for cell in cells)]
    rows = []
    for result in table.rows:
        is_base = result.cell.label == table.paper.base
        label = f"{result.cell.label} (base)" if is_base else result.cell.label
        paper = [f"{result.cell.paper[name]:.1f}" for name in printed]
        ours = [_ablation_cell(result, metric) for metric in METRICS]
        rows.append(row(label, *paper, *ours, look="main" if is_base else ""))
    titles = [f"paper: {PAPER_TITLES[name]}" for name in printed]
    return Table(("cell", *titles, *METRICS.values()), rows)


def _ablation_cell(result: CellResult, metric: str) -> Cell:
    """Renders one of our numbers with its difference to the base."""
    values = result.values(metric)
    if not values:
        return MISSING
    text = f"{in_percent(spread(values))} (n = {len(values)})"
    compared = result.differences.get(metric)
    if compared is None:
        return Cell(text)
    note = points(compared.mean_difference)
    if compared.low is not None:
        note += f" ({interval(compared.low, compared.high)})"
    if compared.ahead or compared.behind:
        note += f", {compared.verdict}"
    return Cell(text, note)


def orders_table(found: Sequence[Ordering]) -> Table:
    """Lists which of the paper's orders hold here, of those that a table is about."""
    rows = []
    for ordering in found:
        if not ordering.is_listed:
            continue
        compared, tone = ordering.comparison, "missing"
        ours: tuple[Cell | str, ...] = (MISSING, MISSING)
        if compared is not None:
            tone = _tone(compared)
            ours = (
                points(compared.mean_difference),
                interval(compared.low, compared.high),
            )
        rows.append(
            row(
                f"{ordering.higher} above {ordering.lower}",
                METRICS[ordering.metric],
                f"+{ordering.paper_points:.1f}",
                *ours,
                Cell(ordering.verdict, tone=tone, words=True),
            )
        )
    header = ("in the paper", "by", "paper", "ours", "95 % interval", "here it")
    return Table(header, rows)


def count_orders(found: Sequence[Ordering]) -> str:
    """Counts what became of all pairs that the paper's numbers put in order."""
    # What stands behind a colon or in brackets explains the verdict.
    counts = Counter(re.split(r":| \(", ordering.verdict)[0] for ordering in found)
    words = {
        "holds": "hold",
        "does not hold": "do not hold",
        "too close": "are too close to say",
        "too few pairs to say": "have too few trials to say",
        "missing": "are missing",
    }
    return ", ".join(f"{counts[n]} {text}" for n, text in words.items() if counts[n])


def speed_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Shows what benchmarks measured."""
    header = ("name", "value", "unit", "ours", "reference")
    return Table(header, [row(*(_plain(e.get(n)) for n in header)) for e in entries])


def _plain(value: Any) -> str:
    """Renders a number of any size briefly."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.4g}" if is_number else "" if value is None else str(value)
