"""Learning rates that Keras has no schedule for, as pure functions of the step."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable("pmal_tf")
class CosineRestarts(Schedule):
    """Cosine to 0 that starts again from the peak, in cycles of equal length.

    With n = restarts + 1 cycles, step t lies at the share p = frac(t n / total_steps)
    of its cycle, and the rate is peak (1 + cos(pi p)) / 2. If the first cycle begins
    with h steps held at the peak, its cosine runs over the rest of it. From
    `total_steps` on the rate is 0. (SGDR, Loshchilov and Hutter, ICLR 2017, there with
    growing cycles too.)

    Keras's `CosineDecayRestarts` has cycles of whole steps and no end: the steps left
    over by the division would begin one more cycle, at the full rate.

    Args:
        peak: Rate at the start of every cycle.
        total_steps: Of all cycles together, at least 1; a cycle need not begin at one.
        restarts: Starts after the first, at least 0.
        hold_steps: Steps h at the peak before the first cosine, below total_steps / n.
    """

    def __init__(
        self, peak: float, total_steps: int, restarts: int = 0, hold_steps: int = 0
    ) -> None:
        super().__init__()
        self.peak = peak
        self.total_steps = total_steps
        self.restarts = restarts
        self.hold_steps = hold_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate at steps, integers of any shape, counted from 0."""
        dtype = keras.config.floatx()
        cycles, total = self.restarts + 1, self.total_steps
        # In units of 1 / cycles steps all lengths are integers, so the steps at which
        # cycles begin are exact however long the training is.
        time = tf.minimum(keras.ops.cast(step, "int64"), total) * cycles
        cycle = tf.minimum(time // total, self.restarts)
        held = tf.cast(cycle == 0, tf.int64) * self.hold_steps * cycles
        length = total - held
        left = length - tf.maximum(time - cycle * total - held, 0)
        # (1 + cos(pi p)) / 2 = sin^2(pi (1 - p) / 2), without the cancellation near 0.
        share = tf.cast(left, dtype) / tf.cast(length, dtype)
        return self.peak * tf.square(tf.sin(math.pi / 2 * share))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("peak", "total_steps", "restarts", "hold_steps")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("pmal_tf")
class Triangular(Schedule):
    """Rises from `start` times the peak in a line, and falls in a line to `end` times.

    Step t of T lies at the share t / T; the rate is highest at the share `peak_share`,
    and from step T on it is `end` times the peak.

    The defaults are those of airbench94 (KellerJordan/cifar10-airbench).

    Args:
        peak: The largest rate.
        total_steps: T, at least 1.
        start: First rate over the peak.
        peak_share: In (0, 1).
        end: Last rate over the peak.
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        start: float = 0.2,
        peak_share: float = 0.23,
        end: float = 0.07,
    ) -> None:
        super().__init__()
        self.peak = peak
        self.total_steps = total_steps
        self.start = start
        self.peak_share = peak_share
        self.end = end

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate at steps, integers of any shape, counted from 0."""
        dtype = keras.config.floatx()
        share = tf.cast(step, dtype) / float(self.total_steps)
        rise = self.start + (1.0 - self.start) * share / self.peak_share
        left = tf.maximum(1.0 - share, 0.0) / (1.0 - self.peak_share)
        return self.peak * tf.minimum(rise, self.end + (1.0 - self.end) * left)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("peak", "total_steps", "start", "peak_share", "end")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("pmal_tf")
class LinearWarmup(Schedule):
    """Scales another schedule by min(1, step / warmup_steps).

    The other schedule counts steps from the start too: a drop within the warm-up bends
    the rise.

    Args:
        schedule: Schedule, or constant rate, to scale.
        warmup_steps: Steps until its full rate, at least 1. The first step has rate 0.
    """

    def __init__(self, schedule: float | Schedule, warmup_steps: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate at steps, integers of any shape, counted from 0."""
        dtype = keras.config.floatx()
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        share = keras.ops.cast(step, dtype) / float(self.warmup_steps)
        return keras.ops.cast(rate, dtype) * tf.minimum(share, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LinearWarmup:
        """Builds the schedule from `get_config`'s dictionary."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["warmup_steps"])
