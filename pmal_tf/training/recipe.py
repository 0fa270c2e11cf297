"""How a network is trained: the numbers of Section 6.1, and what they build."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from pmal_tf import distribution
from pmal_tf.errors import PmalError
from pmal_tf.training.optimizers import CoupledAdam, CoupledSGD
from pmal_tf.training.schedules import CosineRestarts, LinearWarmup, Schedule


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule and budget of one training stage.

    Every schedule counts from the first step of training, with or without a warm-up:
    the drops of `step` and the restarts of `cosine_restarts` stay where they are. A
    cosine begins to fall where the warm-up ends, and ends with the last step or, before
    a restart, with its cycle.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: `adam` or `sgd`.
        learning_rate: At the start.
        momentum: Adam's beta_1, or SGD's momentum.
        weight_decay: Factor of the L2 term, or of the decay.
        decoupled_weight_decay: False: the decay is part of the gradient, as in
            PyTorch's Adam and SGD. True: beside it, as in AdamW.
        label_smoothing: Share s of a label, in [0, 1), that is spread evenly over all
            K classes: targets are (1 - s) onehot + s / K.
        schedule: `step` divides the rate by 10 every `drop_every` epochs; `cosine` goes
            to 0 over all epochs; `cosine_restarts` does so `restarts` + 1 times, in
            cycles of equal length, from the full rate each; `constant`.
        restarts: Restarts of `cosine_restarts`.
        warmup_epochs: Epochs over which the rate rises linearly, from 0 at the first
            step, in any schedule. Fewer than `epochs`, and than those of one cycle.
        drop_every: Epochs between drops.
        jit: Whether to compile training steps with XLA: `on`, `off`, or `auto`, where
            there is one GPU. On two CPU cores with AMX the plain graph was the faster
            one (`python -m pmal_tf.benchmark training` measures it).
        steps_per_execution: Steps between two returns to Python.
        sync_batch_norm: Whether BatchNorm sees the global batch of several replicas.
    """

    epochs: int = 600
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decoupled_weight_decay: bool = False
    label_smoothing: float = 0.0
    schedule: str = "step"
    restarts: int = 2
    warmup_epochs: int = 0
    drop_every: int = 120
    jit: str = "auto"
    steps_per_execution: int = 1
    sync_batch_norm: bool = True

    @property
    def use_jit(self) -> bool:
        """Whether steps are compiled on this machine."""
        if self.jit == "auto":
            has_gpu = bool(tf.config.list_logical_devices("GPU"))
            # XLA cannot compile what replicas tell each other within a step.
            return has_gpu and distribution.replicas() == 1
        return self.jit == "on"

    def build_schedule(self, steps_per_epoch: int) -> float | Schedule:
        """Returns the learning rate as Keras takes it.

        Raises:
            PmalError: If the schedule is unknown or leaves no time after the warm-up.
        """
        self._check_warmup()
        schedule = self._unscaled_schedule(steps_per_epoch)
        if not self.warmup_epochs:
            return schedule
        return LinearWarmup(schedule, self.warmup_epochs * steps_per_epoch)

    def _check_warmup(self) -> None:
        """Checks that the first cosine has time to fall.

        Raises:
            PmalError: If the warm-up is as long as it, or longer.
        """
        cycles = self.restarts + 1 if self.schedule == "cosine_restarts" else 1
        if self.warmup_epochs * cycles >= self.epochs:
            per_cycle = " / (restarts + 1)" if cycles > 1 else ""
            restarts = f", restarts={self.restarts}" if cycles > 1 else ""
            raise PmalError(
                f"`warmup_epochs` must be less than epochs{per_cycle} with "
                f"schedule={self.schedule}. Received: warmup_epochs="
                f"{self.warmup_epochs}, epochs={self.epochs}{restarts}. "
                "Warm up for less, or train for longer."
            )

    def _unscaled_schedule(self, steps_per_epoch: int) -> float | Schedule:
        """Returns the learning rate as it were without the rise of the warm-up.

        Raises:
            PmalError: If the schedule is unknown.
        """
        rate, total_steps = self.learning_rate, self.epochs * steps_per_epoch
        warmup_steps = self.warmup_epochs * steps_per_epoch
        if self.schedule == "constant":
            return rate
        if self.schedule == "step":
            return self._step_schedule(steps_per_epoch)
        if self.schedule == "cosine" and not warmup_steps:
            return keras.optimizers.schedules.CosineDecay(rate, decay_steps=total_steps)
        if self.schedule == "cosine":
            return CosineRestarts(rate, total_steps, hold_steps=warmup_steps)
        if self.schedule == "cosine_restarts":
            return CosineRestarts(rate, total_steps, self.restarts, warmup_steps)
        raise PmalError(
            "`schedule` must be one of step, cosine, cosine_restarts, constant. "
            f"Received: schedule={self.schedule!r}"
        )

    def _step_schedule(self, steps_per_epoch: int) -> float | Schedule:
        """Returns the rate that is divided by 10 every `drop_every` epochs."""
        drops = range(self.drop_every, self.epochs, self.drop_every)
        if not drops:
            return self.learning_rate
        # Keras keeps the old rate up to and including the boundary step.
        boundaries = [epoch * steps_per_epoch - 1 for epoch in drops]
        values = [self.learning_rate * 0.1**drop for drop in range(len(drops) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)

    def build_optimizer(self, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Returns a new optimiser.

        Raises:
            PmalError: If the optimiser is unknown.
        """
        coupled = not self.decoupled_weight_decay
        decay = "coupled_weight_decay" if coupled else "weight_decay"
        arguments = {
            "learning_rate": self.build_schedule(steps_per_epoch),
            decay: self.weight_decay,
        }
        if self.optimizer == "adam":
            # PyTorch's epsilon; Keras's default is ten times larger.
            return CoupledAdam(beta_1=self.momentum, epsilon=1e-8, **arguments)
        if self.optimizer == "sgd":
            return CoupledSGD(momentum=self.momentum, **arguments)
        raise PmalError(
            f"`optimizer` must be one of adam, sgd. Received: {self.optimizer!r}"
        )
