"""From images to answers, as pure functions of tensors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from pmal_tf.data.decoding.decode import resize_images
from pmal_tf.methods.scorer import OUTPUTS, Scorer
from pmal_tf.results.scores.registry import all_scores, get_score
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError

UNKNOWN = "unknown"
UNKNOWN_ID = -1


@dataclass(frozen=True)
class Answering:
    """What an exported model needs to answer.

    Scores above the `threshold`, on the method's scale, are unknown. `statistics` are
    what the score is measured against, by name; variables, since every signature would
    hold copies of constants. If `compiled`, XLA compiles the network.
    """

    scorer: Scorer
    class_names: tuple[str, ...]
    score: Score
    threshold: float
    statistics: Mapping[str, tf.Variable]
    compiled: bool = False

    @property
    def input_shape(self) -> tuple[int | None, int | None, int]:
        """(H, W, C); H and W may be None for a network of any size."""
        return tuple(self.scorer.network.input.shape[1:])

    @property
    def image_spec(self) -> tf.TensorSpec:
        """Images that are taken: of any size where resizing to a square is possible."""
        height, width, channels = self.input_shape
        sides = (None, None) if height == width else (height, width)
        return tf.TensorSpec((None, *sides, channels), tf.float32, name="images")

    def embed(self, images: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Embeds at least one image of any size, whatever its pixels are.

        Returns `embedding` and `logits`, both float32 and finite; and [batch] booleans,
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
        network = functools.partial(self.scorer.network, training=False)
        if self.compiled:
            network = tf.function(network, jit_compile=True)
        outputs = network(images)
        finite = {}
        for name in OUTPUTS:
            value = tf.cast(outputs[name], tf.float32)
            is_finite = tf.math.is_finite(value)
            sound &= tf.reduce_all(is_finite, axis=1)
            finite[name] = tf.where(is_finite, value, 0.0)
        return finite, sound

    def answer(
        self, images: tf.Tensor, threshold: tf.Tensor, readable: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Answers with a class or `unknown`.

        There is at least one image, [batch, h, w, C] on the 0-255 scale; thresholds are
        [batch] or one. Of an image that is not `readable`, [batch] booleans, or has a
        pixel that is not a finite number, the answer is `unknown`, with the largest
        score and distances and equal probabilities.

        Returns `class_id` (int64, -1 for unknown), `class_name`, `is_unknown`,
        `unknown_score` (float32) and `probabilities` [batch, K]; where the method has
        such, `distance` [batch, K] and `nearest_prototype` (strings, empty for what
        cannot be read).
        """
        outputs, sound = self.embed(images)
        if readable is not None:
            sound &= readable
        outputs = dict(self.scorer.measure(outputs))
        logits, count = outputs["logits"], len(self.class_names)
        if "distance" in outputs:
            # Of a huge embedding, though finite, the square is not.
            sound &= tf.reduce_all(tf.math.is_finite(outputs["distance"]), axis=1)
            largest = self.scorer.largest_distance
            outputs["distance"] = tf.clip_by_value(outputs["distance"], 0.0, largest)
        statistics = {n: tf.convert_to_tensor(v) for n, v in self.statistics.items()}
        score = self.score.tensor(outputs, statistics)
        sound &= tf.math.is_finite(score)
        score = tf.where(sound, score, self.score.unreadable)
        is_unknown = (score > threshold) | ~sound
        class_id = tf.where(
            is_unknown, tf.constant(UNKNOWN_ID, tf.int64), tf.argmax(logits, axis=1)
        )
        # Position K of the names is `unknown`.
        names = tf.constant([*self.class_names, UNKNOWN])
        name_index = tf.where(is_unknown, tf.constant(count, tf.int64), class_id)
        answers = {
            "class_id": class_id,
            "class_name": tf.gather(names, name_index),
            "is_unknown": is_unknown,
            "unknown_score": score,
            "probabilities": tf.where(
                sound[:, None], tf.nn.softmax(logits), 1.0 / count
            ),
        }
        if "distance" in outputs:
            outputs["distance"] = tf.where(sound[:, None], outputs["distance"], largest)
            answers["distance"] = outputs["distance"]
        nearest = self.scorer.nearest_prototype(outputs)
        if nearest is not None:
            answers["nearest_prototype"] = tf.where(sound, nearest, "")
        return answers

    def checked_threshold(self, threshold: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Returns the thresholds of a request.

        Raises:
            tf.errors.InvalidArgumentError: If there is not one for each image, or one
                is not in the rule's range.
        """
        low, high = self.score.low, self.score.high
        limits = f"between {low:g} and {high:g} for the rule {self.score.field}"
        sent, count = tf.shape(threshold), tf.shape(images)[:1]
        one_each = "`threshold` must have one number per image. Received: shape"
        one_each_check = tf.debugging.Assert(
            tf.reduce_all(sent == count),
            [one_each, sent, "for so many images:", count[0]],
        )
        # A comparison with NaN is false.
        ends = tf.reduce_min(threshold), tf.reduce_max(threshold)
        range_check = tf.debugging.Assert(
            tf.reduce_all((threshold >= low) & (threshold <= high)),
            [f"`threshold` must lie {limits}. Received numbers between", *ends],
        )
        with tf.control_dependencies([one_each_check, range_check]):
            return tf.identity(threshold)

    def checked_images(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images; raises InvalidArgumentError if they are not [batch, h, w, C].

        With sides of at least one pixel.
        """
        channels = images.shape[-1]
        return checked_shape(
            images,
            lambda x: (x[3] == channels) & (x[4] == -1) & tf.reduce_all(x[1:3] > 0),
            f"`images` must be [batch, height, width, {channels}] with sides of at "
            "least one pixel.",
        )


def rejection_score(scorer: Scorer, rule: str = "") -> Score:
    """Returns the score that an exported model rejects by, on the method's scale.

    `rule` is its name, or what files call it; by default it is the distance to the
    nearest class (DR) where the method measures distances, else the largest logit
    (MLS).

    Raises:
        PmalError: If there is no such score, or the method lacks what it is computed
            from.
    """
    network = scorer.network.output
    specs = {name: tf.TensorSpec(network[name].shape, tf.float32) for name in OUTPUTS}
    measured = tf.function(scorer.measure).get_concrete_function(specs)
    outputs = set(measured.structured_outputs)
    score = get_score(rule or ("dr" if "distance" in outputs else "mls"))
    if not outputs.issuperset(score.needs):
        others = (s.name for s in all_scores().values() if outputs.issuperset(s.needs))
        raise PmalError(
            f"The rule {score.name} is computed from {' and '.join(score.needs)}, "
            "which the model must say. Received: a model that says "
            f"{', '.join(sorted(outputs))}. Choose one of {', '.join(others)}."
        )
    if score.is_distance:
        end = scorer.largest_distance
        return dataclasses.replace(score, high=end, unreadable=end)
    return score


def checked_shape(
    tensor: tf.Tensor, fits: Callable[[tf.Tensor], tf.Tensor], expected: str
) -> tf.Tensor:
    """Returns an input of a request, if its shape fits.

    A server feeds what a client sends, whatever the signature declares, so the declared
    shape must not be taken for the real one. `fits` is called with that one, filled up
    with -1 so that no rank is too low to be looked at.

    Raises:
        tf.errors.InvalidArgumentError: If it does not fit; it says what is `expected`.
    """
    sent = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None)
    shape = tf.shape(sent)
    filled = tf.concat([shape, tf.fill([5], -1)], axis=0)
    message = [f"{expected} Received: shape", shape]
    check = tf.debugging.Assert(fits(filled), message, summarize=8)
    with tf.control_dependencies([check]):
        return tf.ensure_shape(sent, tensor.shape)
