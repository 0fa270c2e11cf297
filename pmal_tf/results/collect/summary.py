"""Mean and spread over the trials of an experiment, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pmal_tf.data.splits import trials_of_equal_classes
from pmal_tf.results.collect.numbers import (
    in_percent,
    metric_of,
    metric_titles,
    spread,
)
from pmal_tf.results.collect.paper import COMPARED_WITH, paper_numbers
from pmal_tf.results.metrics import OPEN_SET_METRICS
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_json, write_text

# What `result.json` repeats of the settings.
REPEATED = ("method", "dataset", "backbone", "protocol", "seed", "epochs")


def summarise_experiment(
    folder: Path, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Writes `summary.json` and `summary.md` into `runs/<experiment>`.

    Results, what is returned, and errors are those of `summarise`.
    """
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
    trials = ", ".join(map(str, summary["trials"]))
    several = len(summary["trials"]) > 1
    deviation = ", mean ± standard deviation over trials" if several else ""
    heading = (
        f"{summary['experiment']}: {summary['dataset']}, protocol "
        f"`{summary['protocol']}`, backbone {summary['backbone']}, trials {trials} "
        f"(n = {len(summary['trials'])}); percent{deviation}.\n"
    )
    notes = "".join(f"{note}\n" for note in notes_on(summary))
    titles, columns = summary["titles"], metric_titles(summary["models"].values())
    rows = [
        [titles[model], *(in_percent(metrics.get(name)) for name in columns)]
        for model, metrics in summary["models"].items()
    ]
    own = titles[summary["method"]]
    if summary["paper"]:
        paper = paper_metrics(summary)
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
