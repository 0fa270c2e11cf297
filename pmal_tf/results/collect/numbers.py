"""The numbers of a result by name, `acc` or `dr.auroc`, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pmal_tf.results.scores.registry import scores_in
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError


def scores_of(models: Iterable[Iterable[str]]) -> tuple[Score, ...]:
    """Returns the scores of some models, given the names of their numbers."""
    names = (name.partition(".")[0] for numbers in models for name in numbers)
    return scores_in(dict.fromkeys(names))


def metric_titles(
    models: Iterable[Iterable[str]], kinds: Sequence[str] = ("auroc", "oscr")
) -> dict[str, str]:
    """Returns titles by metric for the columns of a table of results.

    Args:
        models: Of each model, the names of its numbers.
        kinds: Which metrics to show of each score, after the accuracy.
    """
    scores = scores_of(models)
    titles = {
        f"{score.field}.{kind}": f"{kind.upper()} {score.title}"
        for kind in kinds
        for score in scores
    }
    return {"acc": "ACC", **titles}


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
