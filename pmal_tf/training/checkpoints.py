"""Checkpoints at the end of epochs, and going on from the last good one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from pmal_tf.errors import TrainingDivergedError, first_line

_PATTERN = "epoch_*.weights.h5"
_KEEP = 2


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves weights and optimiser at the end of an epoch, at most every few seconds.

    How often never changes what is trained. The newest two are kept, each written to a
    temporary name and renamed.

    Args:
        folder: Where checkpoints go.
        every_seconds: Least time between two.
    """

    def __init__(self, folder: Path, every_seconds: float = 5.0) -> None:
        super().__init__()
        self.folder = folder
        self.every_seconds = every_seconds
        self._saved_at = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, unless a weight is not a finite number.

        Raises:
            TrainingDivergedError: If one is not; nothing is overwritten then.
        """
        if time.monotonic() - self._saved_at < self.every_seconds:
            return
        check_weights(self.model, f"after epoch {epoch + 1}")
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "writing.weights.h5"
        self.model.save_weights(temporary)
        os.replace(temporary, self.folder / f"epoch_{epoch + 1:05d}.weights.h5")
        for old in list_checkpoints(self.folder)[_KEEP:]:
            old.unlink()
        self._saved_at = time.monotonic()


def check_weights(model: keras.Model, when: str) -> None:
    """Checks every weight, BatchNorm statistics included.

    A loss can be finite and the step on it not.

    Raises:
        TrainingDivergedError: If one is not a finite number.
    """
    for variable in model.weights:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise TrainingDivergedError(f"weight {variable.path} is not finite {when}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of a stage, newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def restore_newest(model: keras.Model, folder: Path) -> int:
    """Loads the newest checkpoint that can be read.

    Args:
        model: A compiled model; its optimiser is built here.
        folder: The stage's folder.

    Returns:
        The number of epochs that are done, 0 without a checkpoint.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    fresh = [keras.ops.convert_to_numpy(variable) for variable in variables]
    for path in list_checkpoints(folder):
        try:
            model.load_weights(path)
        except Exception as error:  # h5py has many ways to say a file is damaged.
            logging.warning("Checkpoint %s is damaged: %s", path, first_line(error))
            # Reading may have stopped half-way through the variables.
            for variable, value in zip(variables, fresh, strict=True):
                variable.assign(value)
            continue
        return int(path.name.split(".")[0].removeprefix("epoch_"))
    return 0


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a finished stage."""
    for path in list_checkpoints(folder):
        path.unlink()
