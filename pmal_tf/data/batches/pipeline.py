"""The training pipeline: a `tf.data` stream that is a pure function of its seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pmal_tf.data.batches.augment import (
    alternating_flips,
    crop_and_flip,
    crop_and_flip_parameters,
    cut_out,
    rand_augment,
)
from pmal_tf.data.batches.random_resized_crop import crop_and_resize, random_boxes
from pmal_tf.data.decoding.stored_images import StoredImages
from pmal_tf.data.hashing import GOLDEN_GAMMA, hash_ids, splitmix64
from pmal_tf.runtime.errors import PmalError


@dataclass(frozen=True)
class HostReplicas:
    """The replicas that one host feeds, among those that share a global batch.

    Attributes:
        replicas: In all.
        first: Number of this host's first.
        local: How many this host has.
    """

    replicas: int = 1
    first: int = 0
    local: int = 1


ONE_REPLICA = HostReplicas()


@dataclass(frozen=True)
class TrainingPipeline:
    """Shuffled, augmented batches of images, epoch after epoch.

    The order and the augmentation of an epoch depend on (seed, epoch, example id) and
    on nothing else, so a run that goes on from epoch 7 sees what it would have seen.

    Attributes:
        image: [N, H, W, 3] uint8, in memory, or read from disk batch by batch.
        label: [N] class indices.
        example_id: [N] strings.
        batch_size: Images per batch; at most N are taken. The last, smaller batch of an
            epoch is dropped, and other images fall in it in the next.
        seed: Seed of order and augmentation.
        augment: Whether to shift and mirror.
        rand_augment: RandAugment operations per image, before shifting and mirroring.
        rand_augment_magnitude: Their strength, 0 to 30.
        shift: Pixels that an image moves by at most.
        shift_fill: What comes in: `zeros` or `reflect`.
        flip: Mirrored in half of the epochs (`random`) or in every other one
            (`alternating`).
        cutout: Side of a gray square in pixels, after shifting; 0 for none.
        crop: What shifts: `shift`, or `random_resized`, a part of the image, resized
            and mirrored, before RandAugment as is usual for ImageNet.
    """

    image: np.ndarray | StoredImages
    label: np.ndarray
    example_id: np.ndarray
    batch_size: int
    seed: int
    augment: bool
    rand_augment: int = 0
    rand_augment_magnitude: int = 9
    shift: int = 4
    shift_fill: str = "zeros"
    flip: str = "random"
    cutout: int = 0
    crop: str = "shift"

    def __post_init__(self) -> None:
        side = min(self.image.shape[1:3])
        if self.shift_fill == "reflect" and self.augment and self.shift >= side:
            raise PmalError(
                "A mirrored edge is narrower than the image. Received: "
                f"shift={self.shift} with shift_fill=reflect, for images of {side} "
                "pixels. Set a smaller --shift, or --shift_fill=zeros."
            )

    @property
    def images_per_batch(self) -> int:
        """Images in every batch."""
        return min(self.batch_size, len(self.label))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.label) // self.images_per_batch

    def batches(
        self,
        first_epoch: int,
        last_epoch: int,
        *,
        skip: int = 0,
        share: HostReplicas = ONE_REPLICA,
    ) -> tf.data.Dataset:
        """Streams the batches of epochs `first_epoch` to `last_epoch - 1`, from 0.

        The first `skip` batches are passed over. Each global batch is cut into equal
        parts, one per replica; those of this host's `share` are streamed, one after the
        other.

        Returns:
            A dataset of `({"image": [batch, H, W, 3] uint8, "example_index": [batch]
            int64}, label [batch] int32)`; `example_index` is the position in the
            arrays.

        Raises:
            PmalError: If a batch cannot be cut into equal parts.
        """
        part, rest = divmod(self.images_per_batch, share.replicas)
        if rest or not part:
            raise PmalError(
                "A batch must be divisible by the number of replicas. Received: "
                f"{self.images_per_batch} images per batch on {share.replicas} "
                "replicas. Choose another --batch_size (at most the number of training "
                "images), or use fewer devices."
            )
        gather_images = self._image_gatherer(part)
        with tf.device("CPU"):
            label = tf.constant(self.label, tf.int32)
            identity = tf.constant(hash_ids(self.example_id, "order", self.seed))

        def examples_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            step = tf.cast(epoch + 1, tf.uint64) * tf.constant(GOLDEN_GAMMA, tf.uint64)
            key = splitmix64(identity + step)
            # Shifted into int64's positive half, which argsort can order.
            half = tf.bitwise.right_shift(key, tf.constant(1, tf.uint64))
            order = tf.argsort(tf.cast(half, tf.int64), stable=True)
            in_order = {"index": order, "bits": tf.gather(key, order)}
            if self.flip == "alternating":
                flips = alternating_flips(identity, epoch)
                in_order["flip"] = tf.gather(flips, order)
            return tf.data.Dataset.from_tensor_slices(in_order).batch(
                self.images_per_batch, drop_remainder=True
            )

        def parts(chosen: dict[str, tf.Tensor]) -> tf.data.Dataset:
            own = slice(share.first * part, (share.first + share.local) * part)
            mine = {name: value[own] for name, value in chosen.items()}
            return tf.data.Dataset.from_tensor_slices(mine).batch(
                part, drop_remainder=True
            )

        def assemble(chosen: dict[str, tf.Tensor]) -> tuple[dict, tf.Tensor]:
            index, bits = chosen["index"], chosen["bits"]
            images = self._augmented(gather_images(index), bits, chosen.get("flip"))
            features = {"image": images, "example_index": tf.cast(index, tf.int64)}
            return features, tf.gather(label, index)

        epochs = tf.data.Dataset.range(first_epoch, last_epoch)
        stream = epochs.flat_map(examples_of_epoch).skip(skip)
        if share.replicas > 1:
            stream = stream.flat_map(parts)
        stream = stream.map(assemble, num_parallel_calls=2).prefetch(4)
        # Nothing is left to tune, and the tuner's thread, asleep between its rounds,
        # was seen to hold up the end of a stage for up to a minute.
        options = tf.data.Options()
        options.autotune.enabled = False
        return stream.with_options(options)

    def _augmented(
        self, images: tf.Tensor, bits: tf.Tensor, flip: tf.Tensor | None
    ) -> tf.Tensor:
        """Augments each image by its own hash; `flip` says of each, if it is given."""
        down, right, drawn = crop_and_flip_parameters(bits, self.shift)
        flip = drawn if flip is None else flip
        if self.augment and self.crop == "random_resized":
            images = crop_and_resize(images, random_boxes(bits), flip)
        if self.rand_augment:
            images = rand_augment(
                images,
                bits,
                operations=self.rand_augment,
                magnitude=self.rand_augment_magnitude,
            )
        if self.augment and self.crop == "shift":
            images = crop_and_flip(
                images, down, right, flip, shift=self.shift, fill=self.shift_fill
            )
        if self.cutout:
            images = cut_out(images, bits, self.cutout)
        return images

    def _image_gatherer(self, count: int) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the function from [count] positions to images."""
        stored = self.image
        if isinstance(stored, np.ndarray):
            with tf.device("CPU"):
                image = tf.constant(stored)
            return lambda index: tf.gather(image, index)

        def read(index: tf.Tensor) -> tf.Tensor:
            pixels = tf.numpy_function(
                stored.__getitem__, [index], tf.uint8, stateful=False
            )
            return tf.ensure_shape(pixels, (count, *stored.shape[1:]))

        return read
