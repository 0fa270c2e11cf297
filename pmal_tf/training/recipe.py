"""How a network is trained: the numbers of Section 6.1, and what they build."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import tensorflow as tf

from pmal_tf.errors import PmalError
from pmal_tf.training.optimizers import CoupledAdam, CoupledSGD


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule and budget of one training stage.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: `adam` or `sgd`.
        learning_rate: At the start.
        momentum: Adam's beta_1, or SGD's momentum.
        weight_decay: Factor of the L2 term, or of the decay.
        decoupled_weight_decay: False: the decay is part of the gradient, as in
            PyTorch's Adam and SGD. True: beside it, as in AdamW.
        schedule: `step` divides the rate by 10 every `drop_every` epochs; `cosine` goes
            to 0 over all epochs; `constant`.
        drop_every: Epochs between drops.
        jit: Whether to compile training steps with XLA: `on`, `off`, or `auto`, where
            there is a GPU. On two CPU cores the plain graph was the faster one.
    """

    epochs: int = 600
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decoupled_weight_decay: bool = False
    schedule: str = "step"
    drop_every: int = 120
    jit: str = "auto"

    @property
    def use_jit(self) -> bool:
        """Whether steps are compiled on this machine."""
        if self.jit == "auto":
            return bool(tf.config.list_logical_devices("GPU"))
        return self.jit == "on"

    def build_schedule(
        self, steps_per_epoch: int
    ) -> float | keras.optimizers.schedules.LearningRateSchedule:
        """Returns the learning rate as Keras takes it.

        Raises:
            PmalError: If the schedule is unknown.
        """
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "cosine":
            return keras.optimizers.schedules.CosineDecay(
                self.learning_rate, decay_steps=self.epochs * steps_per_epoch
            )
        if self.schedule == "step":
            drops = range(self.drop_every, self.epochs, self.drop_every)
            # Keras keeps the old rate up to and including the boundary step.
            boundaries = [epoch * steps_per_epoch - 1 for epoch in drops]
            values = [
                self.learning_rate * 0.1**drop for drop in range(len(boundaries) + 1)
            ]
            if not boundaries:
                return self.learning_rate
            return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
        raise PmalError(
            "`schedule` must be one of step, cosine, constant. "
            f"Received: schedule={self.schedule!r}"
        )

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
