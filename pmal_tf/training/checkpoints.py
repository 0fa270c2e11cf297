"""Checkpoints within and between epochs, and going on from the last good one."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import keras
import numpy as np
from absl import logging

from pmal_tf.runtime import distribution, signals
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError, first_line
from pmal_tf.runtime.files import save_arrays
from pmal_tf.training.callbacks import Logs, StageRecords
from pmal_tf.training.trainable import Trainable

_PREFIX = "step_"
_KEEP = 2
# Least time between two at ends of epochs, where nothing is lost by waiting.
_LEAST_SECONDS = 5.0


class Checkpoints(keras.callbacks.Callback):
    """Saves all that training is made of: at ends of epochs, and within long ones.

    How often never changes what is trained. Asked to leave by a signal, it saves and
    leaves. Several hosts save at the same step, and the chief writes.
    """

    def __init__(self, records: StageRecords) -> None:
        super().__init__()
        self.folder = records.folder
        self.minutes = records.checkpoint_minutes
        self._saved_at = time.monotonic()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Saves if it is time or a signal came; the end of the epoch is for itself."""
        if batch + 1 < self.params["steps"]:
            self._save_if_due(batch + 1, after_seconds=60 * self.minutes)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Saves unless that was done just before, after the epoch's record."""
        self._save_if_due(self.params["steps"], after_seconds=_LEAST_SECONDS)

    def _save_if_due(self, steps_of_epoch: int, *, after_seconds: float) -> None:
        """Saves, and leaves if a signal came to any host."""
        due = time.monotonic() - self._saved_at >= after_seconds
        number = signals.requested()
        due, leave = distribution.any_host([due, number is not None])
        if not due and not leave:
            return
        steps = self.params["steps"]
        step = self._epoch * steps + steps_of_epoch
        save_checkpoint(self.model, self.folder, step)
        self._saved_at = time.monotonic()
        if leave:
            raise signals.Interrupted(
                # Another host's signal is taken for this one's.
                number or signal.SIGTERM,
                f"A checkpoint of {self.folder} is kept: epoch {self._epoch + 1}, step "
                f"{steps_of_epoch} of {steps}.",
            )


def save_checkpoint(model: Trainable, folder: Path, step: int) -> None:
    """Writes a checkpoint after `step` steps, and removes all but the newest two.

    All hosts must call this, with a compiled model whose optimiser is built.

    Raises:
        TrainingDivergedError: If a weight is not finite; nothing is overwritten then.
    """
    check_weights(model, f"after step {step}")
    arrays = {
        f"variable_{number:04d}": keras.ops.convert_to_numpy(variable)
        for number, variable in enumerate(_variables(model))
    }
    if not distribution.is_chief():
        return
    save_arrays(folder / f"{_PREFIX}{step:09d}.npz", arrays)
    for old in list_checkpoints(folder)[_KEEP:]:
        old.unlink()


def check_weights(model: keras.Model, when: str) -> None:
    """Checks every weight, BatchNorm statistics included.

    Raises:
        TrainingDivergedError: If one is not a finite number.
    """
    for variable in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise TrainingDivergedError(f"weight {variable.path} is not finite {when}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a stage, newest first."""
    return sorted(folder.glob(f"{_PREFIX}*.npz"), reverse=True)


def restore_newest(model: Trainable, folder: Path) -> int:
    """Loads the newest checkpoint that can be read into a model with built optimiser.

    Returns:
        The number of steps that are done, 0 without a checkpoint.

    Raises:
        PmalError: If it is of another model.
    """
    for path in list_checkpoints(folder):
        try:
            # The archive has a checksum of each array.
            with path.open("rb") as file, np.load(file) as stored:
                arrays = [stored[name] for name in sorted(stored.files)]
        except Exception as error:  # zipfile, zlib and NumPy have their own.
            logging.warning(
                "Checkpoint %s is damaged: %s. Removed; going back to the one before.",
                path,
                first_line(error),
            )
            # Or it would take the place of a good one.
            if distribution.is_chief():
                path.unlink(missing_ok=True)
            continue
        variables = _variables(model)
        if [array.shape for array in arrays] != [tuple(v.shape) for v in variables]:
            raise PmalError(
                "A stage goes on from checkpoints of its own model only. Received: "
                f"{path}, with {len(arrays)} variables for {len(variables)}, or of "
                "other shapes. Remove it to train this stage from its start."
            )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return int(path.stem.removeprefix(_PREFIX))
    return 0


def _variables(model: Trainable) -> list[keras.Variable]:
    """Returns all that changes in training, each once, in an order that is fixed.

    Generators of dropout are left out: they are set from the step.
    """
    found = [*model.variables, *model.metrics_variables]
    for optimizer in model.optimizers.values():
        found += optimizer.variables
    once = {id(variable): variable for variable in found}
    return [v for v in once.values() if not v.path.endswith("seed_generator_state")]
