"""How a network is trained: the numbers of Section 6.1, and what they build."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import Interval, check_settings, setting

if TYPE_CHECKING:
    import keras

    from pmal_tf.training.schedules import Schedule

_AT_LEAST_ONE = Interval(low=1)
_NOT_NEGATIVE = Interval(low=0)


@dataclass(frozen=True)
class Recipe:
    """Training: optimiser, schedule and budget of one training stage.

    Every schedule counts from the first step of training, with or without a warm-up:
    the drops of `step` and the restarts of `cosine_restarts` stay where they are. A
    cosine begins to fall where the warm-up ends, and ends with the last step or, before
    a restart, with its cycle.
    """

    epochs: int = setting(
        600, "Epochs of each training stage.", allowed=_AT_LEAST_ONE, common=True
    )
    batch_size: int = setting(
        128, "Images per training step.", allowed=_AT_LEAST_ONE, common=True
    )
    optimizer: str = setting("adam", "Optimiser.", allowed=("adam", "sgd"))
    learning_rate: float = setting(
        0.01,
        "Learning rate at the start.",
        allowed=Interval(low=0, open_low=True),
        common=True,
    )
    momentum: float = setting(
        0.9,
        "Adam's beta_1, or SGD's momentum.",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    nesterov: bool = setting(False, "SGD looks ahead with its momentum.")
    weight_decay: float = setting(5e-4, "Weight decay.", allowed=_NOT_NEGATIVE)
    decay_kernels_only: bool = setting(
        False, "Decay kernels alone, not biases and BatchNorm."
    )
    offset_rate: float = setting(
        1.0,
        "Learning rate of BatchNorm's offsets, as a multiple of the others'.",
        allowed=Interval(low=0, open_low=True),
    )
    weight_average: float = setting(
        0.0,
        "Momentum of an exponential moving average of the weights, which take its "
        "values after the last step (BatchNorm's statistics stay); 0 for none.",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    decoupled_weight_decay: bool = setting(
        False, "Decay beside the gradient (AdamW), not in it."
    )
    label_smoothing: float = setting(
        0.0,
        "Share of a label that is spread evenly over all classes.",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    schedule: str = setting(
        "step",
        "Learning rate: step (divided by 10), cosine (to 0), cosine_restarts (to 0, "
        "and again from the start, --restarts times), triangular (from a fifth up to "
        "it over the first 23 %, then down to 7 %) or constant.",
        allowed=("step", "cosine", "cosine_restarts", "triangular", "constant"),
        common=True,
    )
    restarts: int = setting(
        2, "Restarts of the cosine_restarts schedule.", allowed=_AT_LEAST_ONE
    )
    warmup_epochs: int = setting(
        0,
        "Epochs over which the learning rate rises from 0 first, in any schedule.",
        allowed=_NOT_NEGATIVE,
    )
    drop_every: int = setting(
        120, "Epochs between drops of the step schedule.", allowed=_AT_LEAST_ONE
    )
    optimize_epochs: int = setting(
        0,
        "Epochs of stages that go on from a trained classifier, PMAL's optimisation "
        "and its control; 0: as --epochs.",
        allowed=_NOT_NEGATIVE,
        common=True,
    )
    optimize_learning_rate: float = setting(
        0.0, "Their learning rate; 0: as --learning_rate.", allowed=_NOT_NEGATIVE
    )
    jit: str = setting(
        "auto",
        "Compile training steps with XLA: on, off, or auto (where there is one GPU).",
        allowed=("auto", "on", "off"),
    )
    steps_per_execution: int = setting(
        1,
        "Training steps between two returns to Python; more helps fast GPUs.",
        allowed=_AT_LEAST_ONE,
        result=False,
    )
    sync_batch_norm: bool = setting(
        True, "Under several replicas, let BatchNorm see the global batch."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        # The first cosine must have time to fall.
        cycles = self.restarts + 1 if self.schedule == "cosine_restarts" else 1
        if self.warmup_epochs * cycles >= self.epochs:
            raise PmalError(
                f"`warmup_epochs` must be less than epochs"
                f"{' / (restarts + 1)' if cycles > 1 else ''} with schedule="
                f"{self.schedule}. Received: warmup_epochs={self.warmup_epochs}, "
                f"epochs={self.epochs}, restarts={self.restarts}. Warm up for less, or "
                "train for longer."
            )
        if self.warmup_epochs and self.schedule == "triangular":
            raise PmalError(
                "schedule=triangular rises by itself. Received: "
                f"warmup_epochs={self.warmup_epochs}. Leave --warmup_epochs at 0."
            )
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise PmalError(
                "`nesterov` needs optimizer=sgd and a momentum. Received: "
                f"optimizer={self.optimizer}, momentum={self.momentum}. Leave it out, "
                "or add --optimizer=sgd --momentum=0.9."
            )
        if self.decay_kernels_only and self.decoupled_weight_decay:
            raise PmalError(
                "`decay_kernels_only` is for a decay in the gradient. Received: "
                "decoupled_weight_decay=True. Leave one of the two out."
            )
        if self.optimize_epochs or self.optimize_learning_rate:
            _ = self.continued  # Which must be allowed too.

    @property
    def first(self) -> Recipe:
        """The recipe of stages that start from fresh weights."""
        return replace(self, optimize_epochs=0, optimize_learning_rate=0.0)

    @property
    def continued(self) -> Recipe:
        """The recipe of stages that go on from a trained classifier."""
        return replace(
            self.first,
            epochs=self.optimize_epochs or self.epochs,
            learning_rate=self.optimize_learning_rate or self.learning_rate,
        )

    @property
    def use_jit(self) -> bool:
        """Whether steps are compiled on this machine."""
        if self.jit == "auto":
            import tensorflow as tf

            from pmal_tf.runtime import distribution

            has_gpu = bool(tf.config.list_logical_devices("GPU"))
            # XLA cannot compile collectives between replicas within a step.
            return has_gpu and distribution.replicas() == 1
        return self.jit == "on"

    def build_schedule(self, steps_per_epoch: int) -> float | Schedule:
        """Returns the learning rate as Keras takes it."""
        from keras.optimizers.schedules import CosineDecay, PiecewiseConstantDecay

        from pmal_tf.training.schedules import (
            CosineRestarts,
            LinearWarmup,
            Triangular,
        )

        rate, steps = self.learning_rate, self.epochs * steps_per_epoch
        warmup_steps = self.warmup_epochs * steps_per_epoch
        between_drops = self.drop_every * steps_per_epoch
        schedule: float | Schedule = rate
        if self.schedule == "step" and steps > between_drops:
            # Keras keeps the old rate up to and including the boundary step.
            boundaries = [d - 1 for d in range(between_drops, steps, between_drops)]
            values = [rate * 0.1**drop for drop in range(len(boundaries) + 1)]
            schedule = PiecewiseConstantDecay(boundaries, values)
        elif self.schedule == "cosine" and not warmup_steps:
            schedule = CosineDecay(rate, decay_steps=steps)
        elif self.schedule == "cosine":
            schedule = CosineRestarts(rate, steps, hold_steps=warmup_steps)
        elif self.schedule == "triangular":
            schedule = Triangular(rate, steps)
        elif self.schedule == "cosine_restarts":
            schedule = CosineRestarts(rate, steps, self.restarts, warmup_steps)
        return LinearWarmup(schedule, warmup_steps) if warmup_steps else schedule

    def build_optimizer(self, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Returns a new optimiser."""
        from pmal_tf.training.optimizers import CoupledAdam, CoupledSGD

        rate = self.build_schedule(steps_per_epoch)
        apart = self.decoupled_weight_decay
        options: dict[str, Any] = {
            "weight_decay" if apart else "coupled_weight_decay": self.weight_decay,
            "decay_kernels_only": self.decay_kernels_only,
            "offset_rate": self.offset_rate,
        }
        if self.weight_average:
            options |= {"use_ema": True, "ema_momentum": self.weight_average}
        if self.optimizer == "adam":
            # PyTorch's epsilon; Keras's default is ten times larger.
            options |= {"beta_1": self.momentum, "epsilon": 1e-8}
            return CoupledAdam(learning_rate=rate, **options)
        options |= {"momentum": self.momentum, "nesterov": self.nesterov}
        return CoupledSGD(learning_rate=rate, **options)
