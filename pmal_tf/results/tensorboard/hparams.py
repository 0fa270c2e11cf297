"""TensorBoard's HParams page: a row of settings and results for each training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmal_tf.runtime.settings import Interval


def write_hparams(
    folder: Path,
    values: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    name: str,
) -> None:
    """Writes the row of one training, in place of an older one in that folder.

    TensorBoard collects the rows, and the columns, from all folders below its
    `--logdir`. It takes scalars of folders below `folder` for results too, so a folder
    beside the curves serves best: `<trial>/tensorboard/hparams`.

    Args:
        folder: Where to.
        values: Settings by name; lists and the like are shown as text.
        metrics: Results by name, also shown as scalars: those of one beginning, as
            `result/acc`, share a group on the page of curves.
        name: The row's name; rows of one name are shown as one, with their average.
    """
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    shown = {
        setting: value if isinstance(value, float | int | str) else str(value)
        for setting, value in values.items()
    }
    with new_event_file(folder, "hparams"):
        api.hparams(shown, trial_id=name)
        for metric, value in metrics.items():
            tf.summary.scalar(metric, float(value))


def write_experiment(
    folder: Path,
    parameters: Mapping[str, Sequence[Any] | Interval],
    metrics: Sequence[str],
) -> None:
    """Writes which settings were searched and which results count, say of a tuner.

    It adds values that were not tried to the rows of `write_hparams`, and leaves out
    other columns. TensorBoard looks at the first such file below its `--logdir` alone,
    so there should be one, above the rows' folders: with two of different settings,
    rows of one would lack their columns. It replaces an older one.

    Args:
        folder: Where to.
        parameters: By name, the values to choose from, of one type; or a range.
        metrics: Names of results.
    """
    from tensorboard.plugins.hparams import api

    domains = {
        name: api.RealInterval(float(values.low or 0), float(values.high or 0))
        if isinstance(values, Interval)
        else api.Discrete(values)
        for name, values in parameters.items()
    }
    hparams = [api.HParam(name, domain) for name, domain in domains.items()]
    with new_event_file(folder, "experiment"):
        api.hparams_config(hparams, [api.Metric(metric) for metric in metrics])


@contextlib.contextmanager
def new_event_file(folder: Path, kind: str) -> Iterator[None]:
    """Lets `tf.summary` write, at step 0, a file in place of those of the same kind.

    `kind` is what the file's name ends with, so that it is found again.
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
