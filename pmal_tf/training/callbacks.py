"""Callbacks that keep the records of a stage."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from absl import logging

from pmal_tf.runtime.files import write_text

Logs = dict[str, Any] | None
# The bar must fit in 80 columns, or every refresh begins a new line.
_BAR_METRICS = ("accuracy", "loss")


@dataclass(frozen=True)
class StageRecords:
    """Where a training stage keeps its records.

    Attributes:
        stage: Its name.
        folder: Its checkpoints and its final model, of these settings alone.
        metrics: The trial's `metrics.jsonl`.
        tensorboard: Its TensorBoard folder, or None.
        checkpoint_minutes: Longest time without a checkpoint within an epoch.
    """

    stage: str
    folder: Path
    metrics: Path
    tensorboard: Path | None
    checkpoint_minutes: float = 10.0


class EpochRecord(keras.callbacks.Callback):
    """Appends a line per epoch to the trial's `metrics.jsonl`, and logs it if asked to.

    Of an epoch that was cut short after `first_step` steps of training, only the part
    since then is timed.
    """

    def __init__(
        self, records: StageRecords, first_step: int, images_per_batch: int, log: bool
    ) -> None:
        super().__init__()
        self.records = records
        self.first_step = first_step
        self.images_per_batch = images_per_batch
        self.log = log

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes the epoch's line."""
        seconds = time.perf_counter() - self._began
        steps = self.params["steps"]
        taken_before = max(0, self.first_step - epoch * steps)
        rate = (steps - taken_before) * self.images_per_batch / seconds
        optimizer = next(iter(self.model.optimizers.values()))
        record = {
            "stage": self.records.stage,
            "epoch": epoch + 1,
            **(logs or {}),
            "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
            "seconds": seconds,
            "images_per_second": rate,
        }
        with self.records.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.log:
            values = "  ".join(f"{k} {v:.4f}" for k, v in (logs or {}).items())
            place = f"{self.records.stage}  epoch {epoch + 1}/{self.params['epochs']}"
            logging.info("%s  %s  %.0f images/s", place, values, rate)


def drop_records(path: Path, stage: str, first_epoch: int) -> None:
    """Removes a stage's lines after `first_epoch` epochs from `metrics.jsonl`.

    A run that was cut short after its last checkpoint left them, and the one that goes
    on writes them again. A line that was cut off in the middle is removed too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["stage"] != stage or record["epoch"] <= first_epoch:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


class ProgressBar(keras.callbacks.Callback):
    """A progress bar over the steps of each epoch of a stage, for a terminal."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Opens the bar."""
        sys.stdout.write(f"{self.stage}  epoch {epoch + 1}/{self.params['epochs']}\n")
        self._bar = keras.utils.Progbar(
            self.params["steps"], width=20, stateful_metrics=_BAR_METRICS
        )

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Moves the bar."""
        shown = logs or {}
        self._bar.update(batch + 1, [(n, shown[n]) for n in _BAR_METRICS if n in shown])
