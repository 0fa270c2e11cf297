"""Which prototypes pass through the network in which training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class PrototypeFeed:
    """Deals prototypes to training steps, and within a step to replicas.

    Each replica gets every `replicas`-th of a step's prototypes, so that together they
    embed each once: copies on every replica would weigh more in a BatchNorm over all.

    Attributes:
        every: Steps from one feeding of prototypes to the next.
        size: Prototypes in a step, in turn: all classes' first prototypes, then their
            second ones, and so on, and around. None: all of them.
        replicas: Replicas that share a step.
        first: Number of this host's first replica.
        local: Replicas of this host; their batches follow each other.
    """

    every: int = 1
    size: int | None = None
    replicas: int = 1
    first: int = 0
    local: int = 1

    @classmethod
    def of_mode(cls, mode: str, every: int, size: int) -> PrototypeFeed:
        """Returns what a `PMALModel`'s mode is fed with.

        Args:
            mode: `joint`: all prototypes in every step.
            every: Steps between two feedings of mode `inference`.
            size: Prototypes in every step of mode `bank`.
        """
        return cls(
            every=every if mode == "inference" else 1,
            size=size if mode == "bank" else None,
        )

    def chooser(self, mask: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the function from a batch's number to the slots it is to embed.

        Args:
            mask: [K, T] boolean, False where padded.

        Returns:
            A function from an int64 number, counted over steps and this host's
            replicas, to [S] int32 slots k * T + t.
        """
        rank, class_index = np.nonzero(mask.T)
        slots = (class_index * mask.shape[1] + rank).astype(np.int32)
        size = len(slots) if self.size is None else min(self.size, len(slots))
        if self.every == self.replicas == 1 and size == len(slots):
            return lambda number: tf.constant(slots)

        def choose(number: tf.Tensor) -> tf.Tensor:
            step = number // self.local
            replica = self.first + number % self.local
            turn = (step * size + tf.range(size, dtype=tf.int64)) % len(slots)
            chosen = tf.gather(slots, turn)
            if self.replicas > 1:
                chosen = chosen[replica :: self.replicas]
            if self.every > 1:
                chosen = chosen[: tf.where(step % self.every == 0, size, 0)]
            return chosen

        return choose


EVERY_STEP = PrototypeFeed()
