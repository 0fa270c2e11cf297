"""Records of results: averages with hardware, budget, n and what their spread is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pmal_tf.results.collect.ablation_tables import AblationTable
from pmal_tf.results.collect.paper import COMPARED_WITH
from pmal_tf.results.collect.run_folders import Experiment, TrialRun
from pmal_tf.results.collect.summary import metric_titles, notes_on, spread
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.runtime.files import write_json

_PERCENTILE = 0.975


def save_records(
    experiments: Sequence[Experiment], tables: Sequence[AblationTable], folder: Path
) -> None:
    """Writes `<experiment>.json` and, for filled ablation tables, `ablations_<n>.json`.

    Each of the experiments has a finished trial; tables of runs with equal other
    settings make a record together. Other records in the folder stay.
    """
    for experiment in experiments:
        name = experiment.name.replace("/", "-")
        write_json(folder / f"{name}.json", _of_experiment(experiment))
    groups: dict[str, list[AblationTable]] = {}
    for table in tables:
        groups.setdefault(repr((table.shared, table.versions)), []).append(table)
    for number, group in enumerate(groups.values()):
        write_json(folder / f"ablations_{number}.json", _of_ablations(group))


def _of_trials(trials: Sequence[TrialRun]) -> dict[str, Any]:
    """Returns what every record must say of the trials that its numbers are of."""
    folders = dict.fromkeys(run.folder.parent.name for run in trials)
    machines = dict.fromkeys(hardware(run.environment) for run in trials)
    return {
        "source": ", ".join(folders),
        "hardware": "; ".join(machines),
        "budget": budget(trials[0].settings),
        "spread": "sample standard deviation over trials",
        "trials": sorted({run.trial for run in trials}),
        "n": len({(run.trial, run.settings["seed"]) for run in trials}),
        "protocol": trials[0].result["protocol"],
    }


def hardware(environment: Mapping[str, Any]) -> str:
    """Names processor, GPUs and number type by the content of `environment.json`."""
    # Runs from before they were recorded have neither.
    machine = f"{environment['cpu_count']} cores, {environment['machine']}"
    machine = environment.get("hardware", machine)
    return ", ".join(filter(None, (machine, environment.get("precision"))))


def budget(config: Mapping[str, Any]) -> str:
    """Says how long and on how many images a run trained."""
    images = config["train_images_per_class"] or "all"
    first, second = config["epochs"], config.get("optimize_epochs", 0)
    epochs = (
        f"{first} and then {second} epochs" if second else f"{first} epochs a stage"
    )
    return (
        f"backbone {config['backbone']} at width {config['width']:g}, {epochs}, "
        f"{images} training images per class, batches of {config['batch_size']}"
    )


def _of_experiment(experiment: Experiment) -> dict[str, Any]:
    """Returns the record of an experiment: its summary, and by trial what it gains."""
    summary = {**experiment.summary, "notes": notes_on(experiment.summary)}
    del summary["known"]
    metrics = metric_titles(summary["models"].values())
    compared = {m: experiment.against_baseline(m) for m in metrics}
    summary["baseline"] = experiment.models.get(experiment.result["baseline"])
    summary["differences"] = {m: c.differences for m, c in compared.items() if c}
    if summary["rejection"]:
        rejection = dict(summary["rejection"])
        for score in scores_in(rejection):
            sides = rejection[score.field]
            ends = interval_of_mean(sides["known_rejected"])
            rejection[score.field] = {**sides, "known_interval": ends}
        summary["rejection"] = rejection
    return {**summary, **_of_trials(experiment.trials)}


def interval_of_mean(entry: Mapping[str, Any] | None) -> list[float] | None:
    """Returns the 95 % interval by Student's t of what `spread` returned.

    None for fewer than two values.
    """
    from scipy import stats  # It takes a second.

    if entry is None or entry["n"] < 2:
        return None
    factor = float(stats.t.ppf(_PERCENTILE, entry["n"] - 1)) / math.sqrt(entry["n"])
    return [entry["mean"] + side * factor * entry["std"] for side in (-1, 1)]


def _of_ablations(tables: Sequence[AblationTable]) -> dict[str, Any]:
    """Returns the record of tables of equal other settings, the base first."""
    metric = COMPARED_WITH["auroc"]
    base = next(r for r in tables[0].rows if r.cell.label == tables[0].paper.base)
    filled = {"base": base} | {
        f"{table.paper.title.partition(':')[0]}, {row.cell.label}": row
        for table in tables
        for row in table.rows
        if row.runs and row.cell.label != table.paper.base
    }
    cells = []
    for label, row in filled.items():
        compared = row.differences.get(metric)
        entry = {
            "cell": label,
            "paper": row.cell.paper["auroc"] / 100,
            "ours": spread(row.values(metric)),
            "difference": compared and compared.mean_difference,
            "interval": compared and [compared.low, compared.high],
        }
        cells.append(entry)
    shared = _of_trials([run for row in filled.values() for run in row.runs.values()])
    return {**shared, "metric": metric, "cells": cells}
