"""The mined prototypes: real training images, and which a training step embeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from pmal_tf.data.batches.pipeline import ONE_REPLICA, HostReplicas
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays
from pmal_tf.runtime.types import Images

# Positions that no training image has, and that differ from each other.
_PADDING = -1
_NOBODY = -2


@dataclass(frozen=True)
class PrototypeSchedule:
    """Deals prototypes to training steps, and within a step to replicas.

    Attributes:
        every: Steps from one that prototypes pass in to the next.
        size: Prototypes in a step, in turn: all classes' first prototypes, then their
            second ones, and so on, and around. None: all of them.
    """

    every: int = 1
    size: int | None = None

    @classmethod
    def of_mode(cls, mode: str, every: int, size: int) -> PrototypeSchedule:
        """Returns a mode's: `every` is that of inference, `size` that of bank."""
        return cls(
            every=every if mode == "inference" else 1,
            size=size if mode == "bank" else None,
        )

    def chooser(
        self, mask: np.ndarray, share: HostReplicas = ONE_REPLICA
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the function from a batch's number to the slots it is to embed.

        The number, int64, is counted over steps and this host's replicas; slots are [S]
        int32, k * T + t, of the [K, T] mask, which is False where padded. Each replica
        gets every so many-th of a step's prototypes, so that together they embed each
        once: copies on every replica would weigh more in a BatchNorm over all.
        """
        rank, class_index = np.nonzero(mask.T)
        slots = (class_index * mask.shape[1] + rank).astype(np.int32)
        size = len(slots) if self.size is None else min(self.size, len(slots))
        if self.every == share.replicas == 1 and size == len(slots):
            return lambda number: tf.constant(slots)

        def choose(number: tf.Tensor) -> tf.Tensor:
            step = number // share.local
            replica = share.first + number % share.local
            turn = (step * size + tf.range(size, dtype=tf.int64)) % len(slots)
            chosen = tf.gather(slots, turn)
            if share.replicas > 1:
                chosen = chosen[replica :: share.replicas]
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

        `selection` has the positions, by class; `image` is [N, H, W, 3], `example_id`
        and `robustness` are [N].
        """
        counts = np.array([len(chosen) for chosen in selection])
        mask = np.arange(counts.max()) < counts[:, None]
        padded = np.zeros(mask.shape, np.int64)
        padded[mask] = np.concatenate(selection)
        pixels = np.where(mask[..., None, None, None], image[padded], 0)
        return cls(
            image=pixels.astype(image.dtype),
            mask=mask,
            example_id=np.where(mask, example_id[padded], ""),
            robustness=np.where(mask, robustness[padded], 0.0),
        )

    def example_index(self, example_id: np.ndarray | None) -> np.ndarray:
        """Returns [K, T] int64 positions among training images, -1 where padded.

        `example_id` has the [N] ids of these; None where ids are positions.

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
        index = np.full(self.mask.shape, _PADDING, np.int64)
        index[self.mask] = [position[name] for name in ids]
        return index

    def attach(
        self,
        dataset: tf.data.Dataset,
        example_id: np.ndarray | None = None,
        schedule: PrototypeSchedule = EVERY_STEP,
        *,
        share: HostReplicas = ONE_REPLICA,
        first_element: int = 0,
    ) -> tf.data.Dataset:
        """Adds prototypes to every batch, as the side input of `PMALModel`.

        Features then also hold `prototype_image` [S, H, W, 3], the S prototypes that
        are to pass through the network in this step, `prototype_slot` [S] int32, their
        places k * T + t, and of all `prototype_index` and `prototype_mask`, [K, T].

        Args:
            dataset: Batches of `({"image", "example_index"}, label)`, or of
                `(image, label)`, which does not say which sample is a prototype itself.
            example_id: As in `example_index`.
            schedule: Which prototypes come with which batch; by default all with each.
            share: The replicas that the batches are for.
            first_element: Number of the first batch since the start of training.
        """
        every_step = {
            "prototype_index": tf.constant(self.example_index(example_id)),
            "prototype_mask": tf.constant(self.mask),
        }
        chosen_for = schedule.chooser(self.mask, share)
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
            passing = {
                "prototype_image": tf.gather(image, slot),
                "prototype_slot": slot,
            }
            return {**features, **every_step, **passing}, label

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
            classes = range(class_index.max() + 1)
            selection = [np.flatnonzero(class_index == k) for k in classes]
            arrays = (stored[name] for name in ("image", "example_id", "robustness"))
            return cls.from_selection(selection, *arrays)
