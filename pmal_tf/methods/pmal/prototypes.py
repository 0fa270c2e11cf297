"""The mined prototypes: real training images, and which a training step embeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays
from pmal_tf.runtime.types import Images

# Positions that no training image has, and that differ from each other.
_PADDING = -1
_NOBODY = -2


@dataclass(frozen=True)
class PrototypeSchedule:
    """Deals prototypes to training steps, and within a step to replicas.

    Each replica gets every `replicas`-th of a step's prototypes, so that together they
    embed each once: copies on every replica would weigh more in a BatchNorm over all.

    Attributes:
        every: Steps from one that prototypes pass in to the next.
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
    def of_mode(cls, mode: str, every: int, size: int) -> PrototypeSchedule:
        """Returns a mode's: `every` is that of inference, `size` that of bank."""
        return cls(
            every=every if mode == "inference" else 1,
            size=size if mode == "bank" else None,
        )

    def chooser(self, mask: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the function from a batch's number to the slots it is to embed.

        The number, int64, is counted over steps and this host's replicas; slots are [S]
        int32, k * T + t, of the [K, T] mask, which is False where padded.
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


EVERY_STEP = PrototypeSchedule()


@dataclass(frozen=True)
class Prototypes:
    """Prototype images of K classes, padded to T per class.

    Attributes:
        image: [K, T, H, W, 3] of the training images' type, in order of selection;
            zeros where padded.
        mask: [K, T] boolean, False where a class has fewer than T prototypes.
        example_id: [K, T] strings, empty where padded.
        robustness: [K, T] float64, 0 where padded.
    """

    image: np.ndarray
    mask: np.ndarray
    example_id: np.ndarray
    robustness: np.ndarray

    @classmethod
    def from_selection(
        cls,
        selection: list[np.ndarray],
        image: Images,
        example_id: np.ndarray,
        robustness: np.ndarray,
    ) -> Prototypes:
        """Collects the images at each class's positions among N training images.

        Args:
            selection: The positions, by class.
            image: [N, H, W, 3].
            example_id: [N] strings.
            robustness: [N].
        """
        num_classes, width = len(selection), max(len(chosen) for chosen in selection)
        padded = np.zeros((num_classes, width), np.int64)
        mask = np.zeros((num_classes, width), bool)
        for row, chosen in enumerate(selection):
            padded[row, : len(chosen)] = chosen
            mask[row, : len(chosen)] = True
        pixels = np.where(mask[..., None, None, None], image[padded], 0)
        return cls(
            image=pixels.astype(image.dtype),
            mask=mask,
            example_id=np.where(mask, example_id[padded], ""),
            robustness=np.where(mask, robustness[padded], 0.0),
        )

    def example_index(self, example_id: np.ndarray | None) -> np.ndarray:
        """Returns [K, T] int64 positions among training images, -1 where padded.

        Args:
            example_id: [N] ids of the training images; None where they are positions.

        Raises:
            PmalError: If a prototype is not among them.
        """
        ids = self.example_id[self.mask].tolist()
        if example_id is None:
            position = {name: int(name) for name in ids if name.isdecimal()}
        else:
            position = {name: n for n, name in enumerate(example_id.tolist())}
        missing = [name for name in ids if name not in position]
        if missing:
            raise PmalError(
                "Every prototype must be one of the training images; these were mined "
                "from other data, or their images have names, which `example_id` must "
                f"give. Received: prototypes {missing[:5]} ({len(missing)} in all)"
            )
        names = self.example_id.ravel().tolist()
        flat = [position.get(name, _PADDING) for name in names]
        return np.array(flat, np.int64).reshape(self.mask.shape)

    def check_classes(self, example_id: np.ndarray, label: np.ndarray) -> None:
        """Checks that every prototype is one of [N] training images, of its class.

        Raises:
            PmalError: If one is not.
        """
        position, num_classes = self.example_index(example_id), int(label.max()) + 1
        rows = np.broadcast_to(np.arange(len(self.mask))[:, None], self.mask.shape)
        wrong = self.example_id[self.mask & (label[position] != rows)]
        if len(wrong) or len(self.mask) != num_classes:
            raise PmalError(
                "Prototypes must be of the classes of the training images. Received: "
                f"prototypes of {len(self.mask)} classes, training images of "
                f"{num_classes}; of another class there: {wrong[:5].tolist()} "
                f"({len(wrong)} in all). Mine them among these images."
            )

    def attach(
        self,
        dataset: tf.data.Dataset,
        example_id: np.ndarray | None = None,
        schedule: PrototypeSchedule = EVERY_STEP,
        *,
        first_element: int = 0,
    ) -> tf.data.Dataset:
        """Adds prototypes to every batch, as the side input of `PMALModel`.

        Features then also hold `prototype_image` [S, H, W, 3], the S prototypes that
        are to pass through the network in this step, `prototype_slot` [S] int32, their
        places k * T + t, and of all `prototype_index` and `prototype_mask`, [K, T].

        Args:
            dataset: Batches of `({"image", "example_index"}, label)`, or of
                `(image, label)`, which cannot tell that a sample is a prototype itself.
            example_id: As in `example_index`.
            schedule: Which prototypes come with which batch; by default all with each.
            first_element: Number of the first batch since the start of training.
        """
        every_step = {
            "prototype_index": tf.constant(self.example_index(example_id)),
            "prototype_mask": tf.constant(self.mask),
        }
        chosen_for = schedule.chooser(self.mask)
        with tf.device("CPU"):
            image = tf.constant(self.image.reshape(-1, *self.image.shape[2:]))

        def add(
            number: tf.Tensor, batch: tuple[object, tf.Tensor]
        ) -> tuple[dict, tf.Tensor]:
            features, label = batch
            if not isinstance(features, dict):
                nobody = tf.fill(tf.shape(label)[:1], tf.constant(_NOBODY, tf.int64))
                features = {"image": features, "example_index": nobody}
            slot = chosen_for(number)
            of_step = {
                "prototype_image": tf.gather(image, slot),
                "prototype_slot": slot,
            }
            return {**features, **every_step, **of_step}, label

        return dataset.enumerate(first_element).map(add)

    def save(self, path: Path) -> None:
        """Writes one row per prototype, class by class in order of selection."""
        rows, _ = np.nonzero(self.mask)
        arrays = {
            "example_id": self.example_id[self.mask],
            "class_index": rows.astype(np.int32),
            "robustness": self.robustness[self.mask],
            "image": self.image[self.mask],
        }
        save_arrays(path, arrays, compressed=True)

    @classmethod
    def load(cls, path: Path) -> Prototypes:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            class_index = stored["class_index"]
            selection = [
                np.flatnonzero(class_index == k) for k in range(class_index.max() + 1)
            ]
            return cls.from_selection(
                selection, stored["image"], stored["example_id"], stored["robustness"]
            )
