"""Mean and spread of trials by number, `acc` or `dr.auroc`, beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmal_tf.data.splits import trials_of_equal_classes
from pmal_tf.results.collect.paper import COMPARED_WITH, paper_numbers
from pmal_tf.results.metrics import OPEN_SET_METRICS
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.results.scores.registry import get_score, scores_in
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_json, write_text

# What `result.json` repeats of the settings.
REPEATED = ("method", "dataset", "backbone", "protocol", "seed", "epochs")
_MOST_OSCR = 3


def scores_of(models: Iterable[Iterable[str]]) -> tuple[Score, ...]:
    """Returns the scores of some models, given the names of their numbers."""
    names = (name.partition(".")[0] for numbers in models for name in numbers)
    return scores_in(dict.fromkeys(names))


def metric_titles(
    models: Iterable[Iterable[str]], kinds: Sequence[str] = ("auroc", "oscr")
) -> dict[str, str]:
    """Returns titles by metric for the columns of a table of some models' results.

    `models` has the names of the numbers of each; `kinds` says which metrics to show of
    each score, after the accuracy.
    """
    scores = scores_of(models)
    titles = {
        f"{score.field}.{kind}": f"{kind.upper()} {score.title}"
        for kind in kinds
        for score in scores
    }
    return {"acc": "ACC", **titles}


def titles_of_a_table(models: Iterable[Iterable[str]]) -> dict[str, str]:
    """Returns the titles of `metric_titles`, but so many that a table can be read.

    OSCR goes with AUROC, so of many scores only the first few have it.
    """
    models = [[*numbers] for numbers in models]
    with_oscr = {score.field for score in scores_of(models)[:_MOST_OSCR]}
    return {
        metric: title
        for metric, title in metric_titles(models).items()
        if not metric.endswith(".oscr") or metric.partition(".")[0] in with_oscr
    }


def metric_of(result: Mapping[str, Any], metric: str, model: str = "") -> float | None:
    """Returns a metric of a trial as a fraction, None where it was not measured.

    Args:
        result: The content of `result.json`.
        metric: `acc`, or a score and a metric of it, e.g. `dr.auroc`.
        model: A model of the result; by default the run's own method.

    Raises:
        PmalError: If the result is damaged.
    """
    model = model or result["method"]
    value: Any = result["models"].get(model)
    for name in metric.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PmalError(
            f"A metric of a result must be a number. Received: {value!r} as {metric} "
            f"of {model} in trial {result['trial']} of {result.get('experiment')}"
        )
    return float(value)


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Returns mean, sample standard deviation (None for one value) and n.

    If a value is None, all is.
    """
    measured = [value for value in values if value is not None]
    if not measured or len(measured) < len(values):
        return None
    deviation = statistics.stdev(measured) if len(measured) > 1 else None
    return {"mean": statistics.fmean(measured), "std": deviation, "n": len(measured)}


def in_percent(entry: Mapping[str, Any] | None) -> str:
    """Renders what `spread` returned, a dash for what was not measured."""
    if entry is None:
        return "-"
    mean = f"{100 * entry['mean']:.1f}"
    return mean if entry["std"] is None else f"{mean} ± {100 * entry['std']:.1f}"


def summarise_experiment(
    folder: Path, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Writes what `summarise` returns into `summary.json` and `summary.md`."""
    summary = summarise(folder.name, results)
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.md", render_summary(summary))
    return summary


def summarise(experiment: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Averages the results of trials.

    Args:
        experiment: Its name.
        results: At least one `result.json`, in order of trial, with the content of
            `calibration.json` as `calibration` where thresholds are to be shown.

    Returns:
        The content of `summary.json`: per model and metric the mean, the sample
        standard deviation (None for one trial), and n.

    Raises:
        PmalError: If the trials differ in more than their number, or are damaged.
    """
    for name in REPEATED:
        values = sorted({str(result[name]) for result in results})
        if len(values) > 1:
            raise PmalError(
                "Only trials of one configuration are averaged. Received: "
                f"{name} {', '.join(values)} in {experiment}"
            )
    first = results[0]
    models = [m for m in first["models"] if all(m in r["models"] for r in results)]
    return {
        "experiment": experiment,
        **{name: first[name] for name in REPEATED},
        "titles": {model: first["titles"].get(model, model) for model in models},
        "trials": [result["trial"] for result in results],
        "models": {
            model: {
                metric: spread([metric_of(result, metric, model) for result in results])
                for metric in _metrics_in(first["models"][model])
            }
            for model in models
        },
        "rejection": _rejection(results),
        "known": {str(result["trial"]): result["known"] for result in results},
        "unknown_is_estimate": any(r.get("unknown_is_estimate") for r in results),
        "paper": paper_numbers(first) or None,
    }


def render_summary(summary: dict[str, Any]) -> str:
    """Renders a summary as a Markdown table, in percent."""
    trials, titles = summary["trials"], summary["titles"]
    deviation = ", mean ± standard deviation over trials" if len(trials) > 1 else ""
    heading = (
        f"{summary['experiment']}: {summary['dataset']}, protocol "
        f"`{summary['protocol']}`, backbone {summary['backbone']}, trials "
        f"{', '.join(map(str, trials))} (n = {len(trials)}); percent{deviation}.\n"
    )
    notes = "".join(f"{note}\n" for note in notes_on(summary))
    columns = titles_of_a_table(summary["models"].values())
    rows = [
        [titles[model], *(in_percent(metrics.get(name)) for name in columns)]
        for model, metrics in summary["models"].items()
    ]
    own, paper = titles[summary["method"]], paper_metrics(summary)
    if paper:
        cells = (f"{100 * paper[n]:.1f}" if n in paper else "" for n in columns)
        rows.append([f"{own} in the paper", *cells])
    table = markdown_table(["model", *columns.values()], rows)
    return f"{heading}{notes}\n{table}" + _thresholds(own, summary["rejection"])


def paper_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """Returns the paper's numbers by what is compared with them; often none."""
    return {COMPARED_WITH[name]: v for name, v in (summary["paper"] or {}).items()}


def notes_on(summary: dict[str, Any]) -> list[str]:
    """Says what a reader must know to judge the numbers."""
    known = ((int(trial), names) for trial, names in summary["known"].items())
    notes = [
        f"Trials {', '.join(map(str, group))} have the same known classes: their "
        "training differs by seed only."
        for group in trials_of_equal_classes(known)
    ]
    others = [m for model, m in summary["models"].items() if model != summary["method"]]
    if any({"dr.auroc", "class_mean.auroc"} <= set(metrics) for metrics in others):
        notes.append(
            "DR of a model without distances of its own is that to its class means."
        )
    if summary["unknown_is_estimate"]:
        notes.append(
            "The unknown images are of classes held out of the known ones: AUROC and "
            "OSCR estimate how images of other classes will be rejected."
        )
    if None in (v for metrics in summary["models"].values() for v in metrics.values()):
        notes.append("There are no unknown images, so rejection was not measured.")
    return notes


def _rejection(results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Averages what thresholds promise and reject, None where a trial lacks it."""
    calibrations = [r["calibration"] for r in results if "calibration" in r]
    if len(calibrations) < len(results):
        return None
    sides = ("known_rejected", "unknown_rejected")
    return {
        "reject_rate": max(each["reject_rate"] for each in calibrations),
        **{
            rule: {
                side: spread([each["rules"][rule][side] for each in calibrations])
                for side in sides
            }
            for rule in calibrations[0]["rules"]
        },
    }


def _thresholds(title: str, rejection: dict[str, Any] | None) -> str:
    """Says what thresholds of a method reject, beside what they promise."""
    if rejection is None:
        return ""
    measured = [
        f"{score.title} {in_percent(sides['known_rejected'])} of known and "
        f"{in_percent(sides['unknown_rejected'])} of unknown"
        for score in scores_in(rejection)
        for sides in [rejection[score.field]]
    ]
    return (
        f"\n{title}'s thresholds, set to reject at most "
        f"{100 * rejection['reject_rate']:.1f} % of known images, reject of the test "
        f"images they were not set on, in percent: {'; '.join(measured)}.\n"
    )


def _metrics_in(numbers: dict[str, Any]) -> list[str]:
    """Names the metrics of a model: of `acc` and `dr`, `acc` and `dr.auroc`, ..."""
    metrics = []
    for name, value in numbers.items():
        if scores_in([name]):
            metrics += [f"{name}.{metric}" for metric in value or OPEN_SET_METRICS]
        else:
            metrics.append(name)
    return metrics


def describe_export(folder: Path, name: str, calibration: dict[str, Any]) -> str:
    """Returns a line on an exported version: what its threshold rejects.

    It rejects by the score called `name`, and has the content of `calibration.json`.
    """
    score = get_score(name)
    rule = calibration["rules"][score.field]
    shares = {side: rule[f"{side}_rejected"] for side in ("known", "unknown")}
    rejected = " and ".join(
        f"{100 * share:.1f} % of {side}"
        for side, share in shares.items()
        if share is not None
    )
    measured = f"; that rejects {rejected} test images" if rejected else ""
    return (
        f"Exported {folder}: an image whose {score.title} is above "
        f"{rule['threshold']:.4g} is unknown{measured}.\n"
    )
