"""What a sweep found: a table and a picture per setting, the best point, the costs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pmal_tf.results.collect.paper import PAPER_TABLES
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.results.scores.registry import get_score
from pmal_tf.results.tensorboard.hparams import write_experiment
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import MARKER, read_json, write_json, write_text
from pmal_tf.runtime.settings import Interval
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.flags import to_flags
from pmal_tf.workflow.tuning.sweep import Parameter, Sweep


@dataclass(frozen=True)
class Point:
    """A point of a sweep: the values that are varied, and all its settings.

    Attributes:
        results: Per trial `trial`, `auroc`, `acc`; empty if it could not be trained.
    """

    values: dict[str, Any]
    config: Config
    results: Sequence[dict[str, Any]] = ()

    @property
    def mean(self) -> float:
        """Mean AUROC over trials, the objective."""
        return statistics.fmean(result["auroc"] for result in self.results)

    def read(self, rule: str) -> Point:
        """Returns the point with what its trials came to by a rule."""
        found = []
        for trial in self.config.trials:
            path = self.config.run_folder / f"trial_{trial}" / "result.json"
            if path.exists():
                result = read_json(path)
                metrics = result["models"][result["method"]]
                auroc, acc = metrics[rule]["auroc"], metrics["acc"]
                found.append({"trial": trial, "auroc": auroc, "acc": acc})
        return dataclasses.replace(self, results=found)


def write_results(sweep: Sweep, points: Sequence[Point]) -> str:
    """Writes the results into the sweep's folder; returns the content of `table.md`.

    Raises:
        PmalError: If no point could be trained.
    """
    # Hyperband gives most points few epochs, and may come to one again; budgets are
    # not averaged, nor compared. Where epochs are what is varied, all points count.
    trained = [point for point in points if point.results]
    most = max((point.config.epochs for point in trained), default=0)
    trained = [p for p in trained if "epochs" in p.values or p.config.epochs == most]
    if not trained:
        raise PmalError(
            "A sweep needs at least one point that can be trained. Received: "
            f"{len(points)} points, none of them trained. See {sweep.folder}."
        )
    best = max(trained, key=lambda point: point.mean)
    costs = measure_costs([point.config for point in points])
    write_json(sweep.folder / "costs.json", costs)
    for name, held_out in (("best", False), ("best_objective", True)):
        flags = _flags_of(sweep, best, name, held_out)
        write_text(sweep.folder / f"{name}.flags", flags)
    center = sweep.config if sweep.tuner == "axes" else None
    rows = {p.name: marginals(trained, p, center) for p in sweep.space}
    _draw(sweep, rows)
    text = _render(sweep, points, rows, best, costs)
    write_text(sweep.folder / "table.md", text)
    return text


def measure_costs(configs: Sequence[Config]) -> dict[str, float]:
    """Adds up the seconds of all stages of some runs.

    Returns:
        `seconds` of computing, where a stage that runs share counts once, and
        `seconds_from_nothing`, where it counts for each; `points`.
    """
    once: dict[tuple[str, ...], float] = {}
    total = 0.0
    for config in configs:
        for trial in config.trials:
            folder = config.run_folder / f"trial_{trial}"
            for path in sorted(folder.glob(f"*/{MARKER}")):
                marker = read_json(path)
                made = (str(trial), path.parent.name, str(marker["outputs"]))
                once[made] = marker["seconds"]
                total += marker["seconds"]
    return {
        "points": len(configs),
        "seconds": round(sum(once.values()), 1),
        "seconds_from_nothing": round(total, 1),
    }


def marginals(
    points: Sequence[Point], parameter: Parameter, center: Config | None
) -> dict[Any, list[float]]:
    """Returns by value of a setting that was visited, ascending, each trial's AUROC.

    Where one setting is varied at a time around `center`, only points that differ from
    it in this one count; None averages over the values of the others.
    """
    by_value: dict[Any, dict[int, list[float]]] = {}
    for point in points:
        others = {n: v for n, v in point.values.items() if n != parameter.name}
        if center is None or all(getattr(center, n) == v for n, v in others.items()):
            by_trial = by_value.setdefault(point.values[parameter.name], {})
            for result in point.results:
                by_trial.setdefault(result["trial"], []).append(result["auroc"])
    return {
        value: [statistics.fmean(aurocs) for aurocs in by_trial.values()]
        for value, by_trial in sorted(by_value.items())
    }


def _flags_of(sweep: Sweep, best: Point, name: str, held_out: bool) -> str:
    """Returns a flagfile of the best point, of the final run or of the objective."""
    original = sweep.config
    config = best.config.changed(
        experiment=f"{original.experiment}_{name}",
        workdir=original.workdir,
        store_dir=original.store_dir,
        tuning_held_out=held_out,
        stages=best.config.stages if held_out else original.stages,
        compare=() if held_out else original.compare,
    )
    what = (
        "Runs the best point again, on the same held-out classes: its AUROC "
        f"{get_score(sweep.rule).title} was {best.mean:.6f} (mean over trials)."
        if held_out
        else "Trains on all known classes with the settings of the best point."
    )
    return f"# {what}\n{to_flags(config)}"


def _draw(sweep: Sweep, rows: dict[str, dict[Any, list[float]]]) -> None:
    """Draws the AUROC against each setting; gives HParams the space."""
    # Matplotlib takes a second, and mistakes should be reported before.
    from pmal_tf.results.figures.hyper_parameters import draw_sweep
    from pmal_tf.results.figures.style import save

    caption = (
        f"AUROC {get_score(sweep.rule).title} on classes held out of the known ones of "
        f"{sweep.config.dataset}."
    )
    for name, row in rows.items():
        if len(row) < 2:  # Too few of its values were visited.
            continue
        paper = {
            cell.overrides[name]: cell.paper["auroc"]
            for table in PAPER_TABLES
            if table.setting == name
            for cell in table.cells
        }
        save(draw_sweep(name, row, paper=paper, caption=caption), sweep.folder, name)
    if sweep.config.tensorboard:
        # Points bring their own rows; this adds what was not visited.
        space = {p.name: list(p.values) or Interval(p.low, p.high) for p in sweep.space}
        metrics = [f"result/auroc_{score.field}" for score in sweep.config.scores]
        write_experiment(sweep.folder / "tensorboard", space, ["result/acc", *metrics])


def _render(
    sweep: Sweep,
    points: Sequence[Point],
    rows: dict[str, dict[Any, list[float]]],
    best: Point,
    costs: dict[str, float],
) -> str:
    """Renders `table.md`: a row for each setting, then one for each point."""
    config, seconds = sweep.config, costs["seconds"]
    about = (
        f"Sweep {config.experiment}: {config.dataset}, protocol "
        f"`{config.protocol}`, AUROC {get_score(sweep.rule).title} in percent on "
        "classes held out of the known ones, trials "
        f"{', '.join(map(str, config.trials))} (n = {len(config.trials)}), "
        f"{sweep.tuner}, seed {config.seed}; "
        "mean ± standard deviation over trials. Test images were not looked at.\n"
    )
    if sweep.tuner == "hyperband":
        about += (
            f"Rows and the best are of points with {best.config.epochs} epochs a "
            "stage.\n"
        )
    if sweep.tuner != "axes":
        about += "A row averages over the values of the other settings.\n"
    by_setting = [
        markdown_table([name, *map(str, row)], [["AUROC", *map(_cell, row.values())]])
        for name, row in rows.items()
    ]
    header = [*best.values, "epochs", "AUROC", "ACC", "n"]
    by_point = markdown_table(header, [_row(point) for point in points])
    names = ", ".join(f"{name} {value}" for name, value in best.values.items())
    found = (
        f"Best: {names}. `best.flags` trains on all known classes with it, "
        "`best_objective.flags` gives its AUROC again. The best of several noisy "
        "numbers is, on average, better than it will be again.\n"
    )
    from_nothing = costs["seconds_from_nothing"]
    took = (
        f"{len(points)} points took {seconds:.0f} s of computing in stages; "
        f"each from nothing would have taken {from_nothing:.0f} s "
        f"({from_nothing / max(seconds, 0.1):.1f} times as long).\n"
    )
    return "\n".join([about, *by_setting, by_point, found, took])


def _row(point: Point) -> list[str]:
    """Renders a point as a row."""
    shown = [*map(str, point.values.values()), str(point.config.epochs)]
    if not point.results:
        return [*shown, "could not be trained", "", "0"]
    cells = [_cell([r[name] for r in point.results]) for name in ("auroc", "acc")]
    return [*shown, *cells, str(len(point.results))]


def _cell(values: Sequence[float]) -> str:
    """Renders fractions as percent, mean and spread."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if values[1:] else mean
