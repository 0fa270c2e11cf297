"""Callbacks that keep the records of a stage."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from absl import logging

from pmal_tf.runtime.files import write_text

# The bar must fit in 80 columns, or every refresh begins a new line.
_BAR_METRICS = ("accuracy", "loss")


class EpochRecord(keras.callbacks.Callback):
    """Appends a line per epoch to `metrics.jsonl`, and says it in the log.

    Args:
        path: The trial's `metrics.jsonl`, shared by all stages.
        stage: Name of the stage.
        first_epoch: Where this run begins; later lines of the stage, left by a run that
            was cut short after its last checkpoint, are removed.
        epochs: Epochs in all.
        images_per_batch: For the images per second. Of an epoch that was cut short,
            only the part since then is timed.
        log: Whether to say the line in the log too; a progress bar says it otherwise.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        *,
        first_epoch: int,
        epochs: int,
        images_per_batch: int,
        log: bool,
    ) -> None:
        super().__init__()
        self.path = path
        self.stage = stage
        self.first_epoch = first_epoch
        self.epochs = epochs
        self.images_per_batch = images_per_batch
        self.log = log
        self._began = 0.0
        self._first_batch: int | None = None
        self._last_batch = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Drops the lines that this run will write again."""
        drop_records(self.path, self.stage, self.first_epoch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()
        self._first_batch = None

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Remembers where in the epoch this run began."""
        if self._first_batch is None:
            self._first_batch = batch

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Remembers how far it came."""
        self._last_batch = batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the epoch's line."""
        seconds = time.perf_counter() - self._began
        batches = self._last_batch - (self._first_batch or 0) + 1
        rate = batches * self.images_per_batch / seconds
        optimizer = next(iter(self.model.optimizers.values()))
        record = {
            "stage": self.stage,
            "epoch": epoch + 1,
            **(logs or {}),
            "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
            "seconds": seconds,
            "images_per_second": rate,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.log:
            values = "  ".join(f"{k} {v:.4f}" for k, v in (logs or {}).items())
            logging.info(
                "%s  epoch %d/%d  %s  %.0f images/s",
                *(self.stage, epoch + 1, self.epochs, values, rate),
            )


def drop_records(path: Path, stage: str, first_epoch: int) -> None:
    """Removes a stage's lines after `first_epoch` epochs from `metrics.jsonl`.

    Lines that are not records, e.g. one cut off in the middle, are removed too.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or not {"stage", "epoch"} <= set(record):
            continue
        if record["stage"] != stage or record["epoch"] <= first_epoch:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


class Validation(keras.callbacks.Callback):
    """Adds numbers of a model that is being trained to those of each epoch.

    Args:
        measure: Returns them by name.
    """

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        super().__init__()
        self.measure = measure

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures."""
        if logs is not None:
            logs.update(self.measure())


class ProgressBar(keras.callbacks.Callback):
    """A progress bar over the steps of each epoch, for a terminal.

    Args:
        stage: Name of the stage.
        epochs: Epochs in all.
        steps_per_epoch: Steps of each.
    """

    def __init__(self, stage: str, epochs: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.stage = stage
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self._bar: keras.utils.Progbar | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Opens the bar."""
        sys.stdout.write(f"{self.stage}  epoch {epoch + 1}/{self.epochs}\n")
        self._bar = keras.utils.Progbar(
            self.steps_per_epoch, width=20, stateful_metrics=_BAR_METRICS
        )

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Moves the bar."""
        shown = [
            (name, (logs or {})[name]) for name in _BAR_METRICS if name in (logs or {})
        ]
        if self._bar is not None:
            self._bar.update(batch + 1, shown)
