"""Adversarial Reciprocal Point Learning (ARPL; Chen et al., TPAMI 2021).

Each class k has a learnt point P_k that stands for all that is *not* of the class; a
sample is of the class whose reciprocal point it is farthest from. With D dimensions,

    d_e(z, P) = |z - P|^2 / D,    logit_k = d_e(z, P_k) - z . P_k,
    L = cross-entropy(logits / T, y) + w max(0, d_e(z, P_y) - R + 1),

where the second term, with a learnt radius R, bounds the open space: it keeps every
sample within a margin of its own reciprocal point. Score: the largest logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pmal_tf.methods.method import NetworkMethod
from pmal_tf.runtime.settings import Interval, check_settings, setting

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclass(frozen=True)
class ARPLSettings:
    """ARPL; the defaults are the authors'."""

    radius_weight: float = setting(
        0.1, "Weight of ARPL's bound on the open space.", allowed=Interval(low=0)
    )
    arpl_temperature: float = setting(
        1.0,
        "What ARPL's logits are divided by in the cross-entropy.",
        allowed=Interval(low=0, open_low=True),
    )

    def __post_init__(self) -> None:
        check_settings(self)


class ARPL(NetworkMethod):
    """Reciprocal points with the margin loss."""

    name = "arpl"
    title = "ARPL"
    Settings = ARPLSettings
    scores = ("mls", "msp", "class_mean")

    def head(
        self, embedding: keras.KerasTensor, num_classes: int, settings: ARPLSettings
    ) -> dict[str, keras.KerasTensor]:
        """Returns `logits` and `distance_to_points` [batch, K], and `radius` [1]."""
        import keras

        from pmal_tf.backbones.layers import Learned, full_precision

        # As the authors draw them: 0.1 times a standard normal.
        normal, dtype = keras.initializers.RandomNormal(stddev=0.1), full_precision()
        size = embedding.shape[-1]
        shape = (num_classes, size)
        learned = Learned(shape, normal, dtype=dtype, name="reciprocal_points")
        points = learned(embedding)
        radius = Learned((1,), dtype=dtype, name="radius")(embedding)
        products = keras.ops.matmul(embedding, keras.ops.transpose(points))
        # |z - P|^2 by its parts: no [batch, K, D] tensor exists.
        squares = keras.ops.sum(embedding**2, axis=1, keepdims=True)
        squares = squares + keras.ops.sum(points**2, axis=1) - 2.0 * products
        distance = squares / float(size)
        return {
            "logits": distance - products,
            "distance_to_points": distance,
            "radius": radius,
        }

    def losses(
        self, outputs: dict[str, tf.Tensor], label: tf.Tensor, settings: Any
    ) -> dict[str, tf.Tensor]:
        """Returns `loss` and its two parts, [batch] each."""
        import tensorflow as tf

        from pmal_tf.training.losses import classification_loss

        classification = classification_loss(
            outputs["logits"] / settings.arpl_temperature, label
        )
        own = tf.gather(outputs["distance_to_points"], label, batch_dims=1)
        bound = tf.nn.relu(own - outputs["radius"] + 1.0)
        return {
            "loss": classification + settings.radius_weight * bound,
            "classification_loss": classification,
            "radius_loss": bound,
        }


METHOD = ARPL()
