"""Checkpoints within and between epochs, and going on from the last good one."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from pmal_tf.runtime import distribution
from pmal_tf.runtime import signals as interruption
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError, first_line
from pmal_tf.runtime.files import differences, save_arrays
from pmal_tf.runtime.version import __version__
from pmal_tf.training.trainable import Trainable

_PATTERN = "step_*.npz"
_KEEP = 2
# Between epochs, where nothing is lost by waiting.
_LEAST_SECONDS = 5.0


class CheckpointDamagedError(Exception):
    """A checkpoint is not what was written."""


class Checkpoints(keras.callbacks.Callback):
    """Saves all that training is made of: at ends of epochs, and within long ones.

    How often never changes what is trained. Asked to leave by a signal, it saves and
    leaves. Several hosts save at the same step, and the chief writes.

    Args:
        folder: Where checkpoints go.
        identity: What the stage is made from; only that stage goes on from them.
        steps_per_epoch: Steps of each epoch.
        minutes: Longest time without a checkpoint within an epoch.
        least_seconds: Least time between two at ends of epochs; None: a few.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        *,
        steps_per_epoch: int,
        minutes: float,
        least_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.identity = identity
        self.steps_per_epoch = steps_per_epoch
        self.minutes = minutes
        self.least_seconds = _LEAST_SECONDS if least_seconds is None else least_seconds
        self._saved_at = time.monotonic()
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers the epoch."""
        self._epoch = epoch

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Saves if it is time or a signal came; the end of the epoch is for itself."""
        if batch + 1 < self.steps_per_epoch:
            self._save_if_due(batch + 1, after_seconds=60 * self.minutes)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves unless that was done just before, after the epoch's record."""
        self._save_if_due(self.steps_per_epoch, after_seconds=self.least_seconds)

    def _save_if_due(self, steps_of_epoch: int, *, after_seconds: float) -> None:
        """Saves, and leaves if a signal came.

        Raises:
            Interrupted: If one came to any host.
        """
        due = time.monotonic() - self._saved_at >= after_seconds
        number = interruption.requested()
        due, leave = distribution.largest([due, number is not None])
        if not due and not leave:
            return
        step = self._epoch * self.steps_per_epoch + steps_of_epoch
        save_checkpoint(self.model, self.folder, step, self.identity)
        self._saved_at = time.monotonic()
        if leave:
            raise interruption.Interrupted(
                # Another host's signal is taken for this one's.
                number or signal.SIGTERM,
                f"A checkpoint of {self.folder} is kept: epoch {self._epoch + 1}, step "
                f"{steps_of_epoch} of {self.steps_per_epoch}.",
            )


def save_checkpoint(
    model: Trainable, folder: Path, step: int, identity: dict[str, Any]
) -> None:
    """Writes a checkpoint and removes all but the newest two.

    Args:
        model: A compiled model whose optimiser is built; all hosts must call.
        folder: The stage's folder.
        step: Steps that are done.
        identity: What the stage is made from.

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
    content = {
        "pmal_tf": __version__,
        "identity": identity,
        "step": step,
        "sha256": _digest(arrays),
    }

    saved = {"content": np.array(json.dumps(content)), **arrays}
    save_arrays(folder / f"step_{step:09d}.npz", saved)
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
    return sorted(folder.glob(_PATTERN), reverse=True)


def restore_newest(model: Trainable, folder: Path, identity: dict[str, Any]) -> int:
    """Loads the newest checkpoint that can be read.

    Args:
        model: A compiled model whose optimiser is built.
        folder: The stage's folder.
        identity: What the stage is made from.

    Returns:
        The number of steps that are done, 0 without a checkpoint.

    Raises:
        PmalError: If a checkpoint is of something else.
    """
    for path in list_checkpoints(folder):
        try:
            content, arrays = _read(path)
        except CheckpointDamagedError as error:
            logging.warning(
                "Checkpoint %s is damaged: %s. Removed; going back to the one before.",
                *(path, error),
            )
            # Or it would take the place of a good one.
            if distribution.is_chief():
                path.unlink(missing_ok=True)
            continue
        _check_identity(path, content, identity)
        variables = _variables(model)
        _check_shapes(path, arrays, variables)
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return content["step"]
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


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of arrays in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Reads a checkpoint.

    Raises:
        CheckpointDamagedError: If it is not as it was written.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            content = json.loads(str(stored["content"]))
            arrays = {name: stored[name] for name in stored.files if name != "content"}
        expected = content["sha256"]
        _ = content["pmal_tf"], content["identity"], content["step"]
    except Exception as error:  # zipfile, zlib, NumPy and json each have their own.
        raise CheckpointDamagedError(first_line(error)) from error
    if _digest(arrays) != expected:
        raise CheckpointDamagedError("its checksum is not that of its content")
    return content, [arrays[name] for name in sorted(arrays)]


def _check_identity(
    path: Path, content: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Checks that a checkpoint is of this stage.

    Raises:
        PmalError: If it is not.
    """
    changed = differences(
        {"pmal_tf": content["pmal_tf"], **content["identity"]},
        {"pmal_tf": __version__, **wanted},
    )
    if changed:
        raise PmalError(
            "A stage goes on from checkpoints of its own settings and version only. "
            f"Received: {path}, which differs in {'; '.join(changed)}. Remove it to "
            "train this stage from its start."
        )


def _check_shapes(
    path: Path, arrays: Sequence[np.ndarray], variables: Sequence[keras.Variable]
) -> None:
    """Checks that a checkpoint fits the model.

    Raises:
        PmalError: If it does not.
    """
    stored = [array.shape for array in arrays]
    expected = [tuple(variable.shape) for variable in variables]
    if stored != expected:
        raise PmalError(
            f"A checkpoint must hold the {len(expected)} variables of the model that "
            f"is trained. Received: {path} with {len(stored)} variables, or with other "
            "shapes. Remove it to train this stage from its start."
        )
