"""TensorBoard's HParams page: a row of settings and results for each training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pmal_tf.runtime.errors import PmalError

Value = float | int | str | bool


@dataclass(frozen=True)
class Interval:
    """A range of numbers, both ends belong to it.

    Attributes:
        low: The smallest.
        high: The largest.
    """

    low: float
    high: float


def write_hparams(
    folder: Path,
    values: Mapping[str, Value],
    metrics: Mapping[str, float],
    *,
    name: str,
) -> None:
    """Writes the row of one training: its settings, and what came out.

    TensorBoard collects the rows, and the columns, from all folders below its
    `--logdir`. It takes scalars of folders below `folder` for results too, so a folder
    beside the curves serves best: `<trial>/tensorboard/hparams`.

    Args:
        folder: Where to; it is made if need be. What this function wrote there before
            is removed, all else stays.
        values: Settings by name, at least one.
        metrics: Results by name, at least one. They are scalars too, and on the pages
            of curves each name heads a group of its own, but those of one beginning,
            as `result/acc`, share theirs.
        name: The row's name; rows of one name are shown as one, with their average.

    Raises:
        PmalError: If there are no settings, results or name, if a setting is neither
            number, text nor truth value, or a number is not finite.
    """
    _check_filled("`values`", values)
    _check_filled("`metrics`", metrics)
    _check_filled("`name`", name)
    settings = {setting: _plain(setting, value) for setting, value in values.items()}
    results = {metric: _plain(metric, value) for metric, value in metrics.items()}
    for metric, value in results.items():
        if isinstance(value, str):
            raise PmalError(
                f"Metrics must be numbers. Received: {metric} = {value!r}. Give it as "
                "one of the `values`."
            )
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    with new_event_file(folder, "hparams"):
        api.hparams(settings, trial_id=name)
        for metric, value in results.items():
            tf.summary.scalar(metric, float(value))


def write_experiment(
    folder: Path,
    parameters: Mapping[str, Sequence[Value] | Interval],
    metrics: Sequence[str],
) -> None:
    """Writes which settings were searched and which results count, say of a tuner.

    It is not needed for `write_hparams`; it adds the values that were not tried, and
    leaves out other columns. TensorBoard looks at the first such file below its
    `--logdir` alone, so there should be one: above two experiments with different
    settings, rows of one would lack their columns.

    Args:
        folder: Where to: above the folders of `write_hparams`. What this function
            wrote there before is removed, all else stays.
        parameters: By name, the values to choose from, all of them numbers, texts or
            truth values; or a range of numbers.
        metrics: Names of results.

    Raises:
        PmalError: If there are no settings or results, a setting has no values or
            values of several types, or a number is not finite.
    """
    _check_filled("`parameters`", parameters)
    _check_filled("`metrics`", metrics)
    choices = {name: _choices(name, values) for name, values in parameters.items()}
    from tensorboard.plugins.hparams import api

    hparams = [
        api.HParam(
            name,
            api.RealInterval(chosen.low, chosen.high)
            if isinstance(chosen, Interval)
            else api.Discrete(chosen),
        )
        for name, chosen in choices.items()
    ]
    with new_event_file(folder, "experiment"):
        api.hparams_config(hparams, [api.Metric(metric) for metric in metrics])


@contextlib.contextmanager
def new_event_file(folder: Path, kind: str) -> Iterator[None]:
    """Opens an event file in place of those of the same kind, and closes it.

    Args:
        folder: Where to; it is made if need be.
        kind: What the file's name ends with, so that it is found again.

    Yields:
        Nothing: `tf.summary` writes into the file, at step 0.
    """
    import tensorflow as tf

    # TensorBoard reads all event files of a folder as one, so that old rows would stay.
    for old in folder.glob(f"*tfevents*.{kind}.v2"):
        old.unlink()
    writer = tf.summary.create_file_writer(
        str(folder), filename_suffix=f".{kind}.v2", experimental_trackable=False
    )
    try:
        with writer.as_default(step=0), tf.summary.record_if(True):
            yield
    finally:
        writer.close()


def _choices(name: str, values: Sequence[Value] | Interval) -> Interval | list[Value]:
    """Checks the values of a setting; of numbers, all become float if one is."""
    if isinstance(values, Interval):
        ends = [_plain(name, end) for end in (values.low, values.high)]
        low, high = (math.nan if isinstance(e, str | bool) else float(e) for e in ends)
        if not low <= high:
            raise PmalError(
                "An interval must go from a number to the same or a larger one. "
                f"Received: {name} from {values.low!r} to {values.high!r}"
            )
        return Interval(low, high)
    _check_filled(f"The values of {name}", values)
    plain = [_plain(name, value) for value in values]
    types = {type(value) for value in plain}
    if types == {int, float}:
        return [float(value) for value in plain]
    if len(types) > 1:
        raise PmalError(
            "The values of a setting must be all numbers, all texts or all truth "
            f"values. Received: {name} in {plain}. Write all of them as texts."
        )
    return plain


def _plain(name: str, value: Any) -> Value:
    """Returns a setting as Python's own type.

    Raises:
        PmalError: If TensorBoard cannot show it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, float | int | str | bool):
        raise PmalError(
            "TensorBoard shows numbers, texts and truth values. Received: "
            f"{name} = {value!r} of type {type(value).__name__}. Give `str` of it, "
            "or leave it out."
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise PmalError(
            f"Numbers for TensorBoard must be finite. Received: {name} = {value}. "
            "Leave it out."
        )
    return value


def _check_filled(what: str, things: Mapping[str, Any] | Sequence[Any]) -> None:
    if not things:
        raise PmalError(f"{what} must hold something. Received: {things!r}")
