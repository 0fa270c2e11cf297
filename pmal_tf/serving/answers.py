"""From images to answers, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pmal_tf.data.resize import resize_images
from pmal_tf.distances import SET_DISTANCES
from pmal_tf.serving.rules import THRESHOLD_RANGES, UNREADABLE_SCORES, unknown_score

UNKNOWN = "unknown"
UNKNOWN_ID = -1
# Numbers of a shape that a message shows.
_MOST_TOLD = 8
# The largest distance there is.
UNREADABLE_DISTANCE = 2.0

Network = Callable[[tf.Tensor], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class Answering:
    """What an exported model needs to answer.

    Attributes:
        network: [batch, H, W, C] images to `embedding` [batch, D] and `logits`
            [batch, K], in inference mode.
        input_shape: (H, W, C); H and W may be None for a network of any size.
        bank: [K, T, D] float32 embeddings of the prototypes; a variable, since every
            signature would hold copies of a constant.
        mask: [K, T] boolean, False where padded.
        prototype_id: [K, T] example ids of the prototypes.
        class_names: K names.
        set_distance: How far an image is from a class, `attention` or `nearest`.
        rule: The rejection rule, `dr`, `pr` or `mls`.
        threshold: Scores above it are unknown.
    """

    network: Network
    input_shape: tuple[int | None, int | None, int]
    bank: tf.Variable
    mask: np.ndarray
    prototype_id: np.ndarray
    class_names: tuple[str, ...]
    set_distance: str
    rule: str
    threshold: float

    @property
    def image_spec(self) -> tf.TensorSpec:
        """Images that are taken: of any size where resizing to a square is possible."""
        height, width, channels = self.input_shape
        sides = (None, None) if height == width else (height, width)
        return tf.TensorSpec((None, *sides, channels), tf.float32, name="images")

    def embed(self, images: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Embeds images of any size, whatever their pixels are.

        Args:
            images: [batch, h, w, C] on the 0-255 scale; at least one.

        Returns:
            `embedding` and `logits`, both float32 and finite; and [batch] booleans,
            False where a pixel or an output was not a finite number.
        """
        is_finite = tf.math.is_finite(images)
        sound = tf.reduce_all(is_finite, axis=(1, 2, 3))
        clipped = tf.clip_by_value(images, 0.0, 255.0)
        # `where` costs as much as all else here, and is hardly ever needed.
        images = tf.cond(
            tf.reduce_all(sound),
            lambda: clipped,
            lambda: tf.where(is_finite, clipped, 0.0),
        )
        height, width, _ = self.input_shape
        if height is not None and height == width:
            images = resize_images(images, height)
        outputs = self.network(images)
        finite = {}
        for name in ("embedding", "logits"):
            value = tf.cast(outputs[name], tf.float32)
            is_finite = tf.math.is_finite(value)
            sound &= tf.reduce_all(is_finite, axis=1)
            finite[name] = tf.where(is_finite, value, 0.0)
        return finite, sound

    def answer(
        self, images: tf.Tensor, threshold: tf.Tensor, readable: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Answers with a class or `unknown`.

        Args:
            images: [batch, h, w, C] on the 0-255 scale; at least one.
            threshold: [batch] or scalar; scores above it are unknown.
            readable: [batch] booleans; of an image that is not, or that has a pixel
                that is not a finite number, the answer is `unknown`, with the largest
                score and distances and equal probabilities.

        Returns:
            `class_id` (int64, -1 for unknown), `class_name`, `is_unknown`,
            `unknown_score` (float32), `distance` and `probabilities` [batch, K], and
            `nearest_prototype` (strings, empty for what cannot be read).
        """
        outputs, sound = self.embed(images)
        if readable is not None:
            sound &= readable
        embedding, logits = outputs["embedding"], outputs["logits"]
        count = len(self.class_names)
        distance, _ = SET_DISTANCES[self.set_distance](
            embedding, self.bank, tf.constant(self.mask)
        )
        # Of a huge embedding, though finite, the square is not.
        sound &= tf.reduce_all(tf.math.is_finite(distance), axis=1)
        distance = tf.where(
            sound[:, None],
            tf.clip_by_value(distance, 0.0, UNREADABLE_DISTANCE),
            UNREADABLE_DISTANCE,
        )
        score = tf.where(
            sound,
            unknown_score(self.rule, distance, logits),
            UNREADABLE_SCORES[self.rule],
        )
        is_unknown = (score > threshold) | ~sound
        class_id = tf.where(
            is_unknown, tf.constant(UNKNOWN_ID, tf.int64), tf.argmax(logits, axis=1)
        )
        # Position K of the names is `unknown`.
        names = tf.constant([*self.class_names, UNKNOWN])
        name_index = tf.where(is_unknown, tf.constant(count, tf.int64), class_id)
        return {
            "class_id": class_id,
            "class_name": tf.gather(names, name_index),
            "is_unknown": is_unknown,
            "unknown_score": score,
            "distance": distance,
            "probabilities": tf.where(
                sound[:, None], tf.nn.softmax(logits), 1.0 / count
            ),
            "nearest_prototype": tf.where(
                sound, self._nearest_prototype(embedding, distance), ""
            ),
        }

    def checked_threshold(self, threshold: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Returns thresholds of a request, if they mean something.

        Raises:
            tf.errors.InvalidArgumentError: If there is not one for each image, or one
                is not a number of the rule's range.
        """
        low, high = THRESHOLD_RANGES[self.rule]
        limits = f"between {low:g} and {high:g} for the rule {self.rule}"
        # A comparison with NaN is false.
        checks = [
            tf.debugging.Assert(
                tf.reduce_all(tf.shape(threshold) == tf.shape(images)[:1]),
                [
                    "`threshold` must have one number per image. Received: shape",
                    tf.shape(threshold),
                    "for so many images:",
                    tf.shape(images)[0],
                ],
            ),
            tf.debugging.Assert(
                tf.reduce_all((threshold >= low) & (threshold <= high)),
                [
                    f"`threshold` must lie {limits}. Received numbers between",
                    tf.reduce_min(threshold),
                    "and",
                    tf.reduce_max(threshold),
                ],
            ),
        ]
        with tf.control_dependencies(checks):
            return tf.identity(threshold)

    def checked_images(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images, if they can be.

        A server feeds what a client sends, whatever the signature declares, so the
        declared shape must not be taken for the real one.

        Raises:
            tf.errors.InvalidArgumentError: If they are not [batch, h, w, C].
        """
        declared = images.shape
        sent = tf.raw_ops.PlaceholderWithDefault(input=images, shape=None)
        shape = tf.shape(sent)
        expected = f"[batch, height, width, {declared[-1]}]"
        # Filled up, so that no rank is too low to be looked at.
        filled = tf.concat([shape, tf.fill([5], -1)], axis=0)
        fits = (filled[3] == declared[-1]) & (filled[4] == -1)
        fits &= tf.reduce_all(filled[1:3] > 0)
        check = tf.debugging.Assert(
            fits,
            [
                f"`images` must be {expected} with sides of at least one pixel. "
                "Received: shape",
                shape,
            ],
            summarize=_MOST_TOLD,
        )
        with tf.control_dependencies([check]):
            return tf.ensure_shape(sent, declared)

    def _nearest_prototype(
        self, embedding: tf.Tensor, distance: tf.Tensor
    ) -> tf.Tensor:
        """Returns [batch] ids: in the nearest class, the prototype attended to most.

        Where the distance is that to the nearest prototype, that one.
        """
        nearest_class = tf.argmin(distance, axis=1)
        prototypes = tf.gather(self.bank, nearest_class)
        if self.set_distance == "nearest":
            prototypes = tf.math.l2_normalize(prototypes, axis=-1)
        # Not the attention itself: rounded, it may be the same of two of them.
        similarity = tf.einsum("bd,btd->bt", embedding, prototypes)
        similarity = tf.where(tf.gather(self.mask, nearest_class), similarity, -np.inf)
        position = tf.argmax(similarity, axis=1)
        ids = tf.constant(self.prototype_id.astype(str))
        return tf.gather(tf.gather(ids, nearest_class), position, batch_dims=1)
