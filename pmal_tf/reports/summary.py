"""Mean and spread over the trials of an experiment, beside the paper's numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pmal_tf.data.held_out import TUNING
from pmal_tf.data.splits import CUSTOM, trials_of_equal_classes
from pmal_tf.errors import PmalError
from pmal_tf.evaluation.metrics import OPEN_SET_METRICS
from pmal_tf.evaluation.scores import RULES
from pmal_tf.reports.paper import PAPER_PMAL
from pmal_tf.reports.tables import markdown_table
from pmal_tf.workdir import write_json, write_text

MODEL_NAMES = {
    "pmal": "PMAL",
    "softmax": "softmax (M^1)",
    "control": "control (M^1 trained on)",
}
_COLUMNS = (
    ("ACC", "acc"),
    *((f"AUROC {rule.upper()}", f"{rule}.auroc") for rule in RULES),
    *((f"OSCR {rule.upper()}", f"{rule}.oscr") for rule in RULES),
)


def summarise_experiment(
    folder: Path, results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Averages the results of trials, and writes `summary.json` and `summary.md`.

    Args:
        folder: `runs/<experiment>`.
        results: At least one content of a `result.json`, in order of trial, with that
            of `calibration.json` as `calibration` where thresholds are to be told of.

    Returns:
        The content of `summary.json`: per model and metric the mean, the sample
        standard deviation (None for one trial), and n.

    Raises:
        PmalError: If the trials differ in more than their number.
    """
    for name in ("dataset", "backbone", "protocol", "seed", "epochs"):
        values = sorted({str(result[name]) for result in results})
        if len(values) > 1:
            raise PmalError(
                "Only trials of one configuration are averaged. Received: "
                f"{name} {', '.join(values)} in {folder}"
            )
    first = results[0]
    paper_row = (first["backbone"], first["dataset"])
    is_estimate = any(r.get("unknown_is_estimate", False) for r in results)
    models = [m for m in MODEL_NAMES if all(m in r["models"] for r in results)]
    metrics = {
        model: {
            name: _spread([value[name] for value in flattened]) for name in flattened[0]
        }
        for model in models
        for flattened in [[_flatten(result["models"][model]) for result in results]]
    }
    summary = {
        "experiment": folder.name,
        "dataset": first["dataset"],
        "backbone": first["backbone"],
        "protocol": first["protocol"],
        "trials": [result["trial"] for result in results],
        "seed": first["seed"],
        "epochs": first["epochs"],
        "models": metrics,
        "rejection": _rejection(results),
        "known": {str(result["trial"]): result["known"] for result in results},
        "unknown_is_estimate": is_estimate,
        "paper": PAPER_PMAL.get(paper_row) if _is_published(first) else None,
    }
    write_json(folder / "summary.json", summary)
    write_text(folder / "summary.md", render_summary(summary))
    return summary


def _is_published(result: dict[str, Any]) -> bool:
    """Tells whether a result is on classes that others have results on."""
    protocol = result["protocol"]
    return protocol != CUSTOM and not protocol.endswith(TUNING)


def render_summary(summary: dict[str, Any]) -> str:
    """Renders a summary as a Markdown table, in percent."""
    trials = ", ".join(map(str, summary["trials"]))
    several = len(summary["trials"]) > 1
    spread = ", mean ± standard deviation over trials" if several else ""
    heading = (
        f"{summary['experiment']}: {summary['dataset']}, protocol "
        f"`{summary['protocol']}`, backbone {summary['backbone']}, trials {trials} "
        f"(n = {len(summary['trials'])}); percent{spread}.\n"
        f"{_notes(summary)}\n"
    )
    rows = [
        [MODEL_NAMES[model], *(_cell(metrics[name]) for _, name in _COLUMNS)]
        for model, metrics in summary["models"].items()
    ]
    if summary["paper"]:
        paper = {"acc": summary["paper"]["acc"], "dr.auroc": summary["paper"]["auroc"]}
        cells = (
            f"{100 * paper[name]:.1f}" if name in paper else "" for _, name in _COLUMNS
        )
        rows.append(["PMAL in the paper", *cells])
    table = markdown_table(["model", *(title for title, _ in _COLUMNS)], rows)
    return heading + table + _thresholds(summary["rejection"])


def _rejection(results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Averages what PMAL's thresholds promise and reject, None where it is not told."""
    calibrations = [r["calibration"] for r in results if "calibration" in r]
    if len(calibrations) < len(results):
        return None
    sides = ("known_rejected", "unknown_rejected")
    return {
        "reject_rate": max(each["reject_rate"] for each in calibrations),
        **{
            rule: {
                side: _spread([each["rules"][rule][side] for each in calibrations])
                for side in sides
            }
            for rule in RULES
        },
    }


def _thresholds(rejection: dict[str, Any] | None) -> str:
    """Says what thresholds of PMAL reject, beside what they promise."""
    if rejection is None:
        return ""
    measured = [
        f"{rule.upper()} {_cell(rejection[rule]['known_rejected'])} of known and "
        f"{_cell(rejection[rule]['unknown_rejected'])} of unknown"
        for rule in RULES
    ]
    return (
        "\nPMAL's thresholds, set to reject at most "
        f"{100 * rejection['reject_rate']:.1f} % of known images, reject of the test "
        f"images they were not set on, in percent: {'; '.join(measured)}.\n"
    )


def _notes(summary: dict[str, Any]) -> str:
    """Says what a reader of the table must know to judge it, a line each."""
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
    if any(metrics["dr.auroc"] is None for metrics in summary["models"].values()):
        notes.append("There are no unknown images, so rejection was not measured.")
    return "".join(f"{note}\n" for note in notes)


def _flatten(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Turns `{"acc": a, "dr": {"auroc": b}}` into `{"acc": a, "dr.auroc": b}`.

    A rule that was not measured, `{"dr": None}`, becomes `{"dr.auroc": None, ...}`.
    """
    flat: dict[str, float | None] = {}
    for name, value in metrics.items():
        if name in RULES:
            measured = value or dict.fromkeys(OPEN_SET_METRICS)
            flat.update({f"{name}.{inner}": v for inner, v in measured.items()})
        else:
            flat[name] = value
    return flat


def _spread(values: list[float | None]) -> dict[str, Any] | None:
    """Returns mean, sample standard deviation and number of values, None for none."""
    measured = [value for value in values if value is not None]
    if len(measured) < len(values):
        return None
    deviation = statistics.stdev(measured) if len(measured) > 1 else None
    return {"mean": statistics.fmean(measured), "std": deviation, "n": len(measured)}


def _cell(entry: dict[str, Any] | None) -> str:
    """Renders one entry in percent, a dash for one that was not measured."""
    if entry is None:
        return "-"
    mean = f"{100 * entry['mean']:.1f}"
    return mean if entry["std"] is None else f"{mean} ± {100 * entry['std']:.1f}"
