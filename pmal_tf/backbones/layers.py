"""What the backbones are made of."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

ImageShape = tuple[int | None, int | None, int]


def full_precision(policy: str | None = None) -> str:
    """Returns the number type of embeddings and logits under a Keras dtype policy.

    It is at least float32, and float64 where the policy, by default the one in use,
    computes in it. Cosine margins between embeddings, and probabilities near 0 and 1,
    do not survive half precision.
    """
    used = keras.DTypePolicy(policy) if policy else keras.config.dtype_policy()
    return "float64" if used.compute_dtype == "float64" else "float32"


def convolution(
    x: keras.KerasTensor, filters: int, size: int, *, stride: int, name: str
) -> keras.KerasTensor:
    """Convolution without bias, padded equally on every side.

    Padding is a layer of its own: at stride 2, `padding="same"` would pad below and to
    the right only.
    """
    if size > 1:
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            scale=2.0, mode="fan_out", distribution="untruncated_normal"
        ),
        name=f"{name}_conv",
    )(x)


def batch_normalization(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """BatchNorm with PyTorch's momentum, 0.1 there and 0.9 in Keras's terms."""
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=f"{name}_norm"
    )(x)


@keras.saving.register_keras_serializable("pmal_tf")
class Learned(keras.layers.Layer):
    """Numbers that are learnt beside the network, such as points in its embedding.

    Called with any tensor, which only ties it to a functional model, it returns them,
    of the given shape, first drawn by a Keras initialiser.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        initializer: str | keras.Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.initializer = keras.initializers.get(initializer)
        self.numbers = self.add_weight(
            shape=self.shape, initializer=self.initializer, name="numbers"
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the numbers."""
        del inputs
        return tf.convert_to_tensor(self.numbers)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns shape and type of the numbers."""
        return keras.KerasTensor(self.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "shape": self.shape,
            "initializer": keras.initializers.serialize(self.initializer),
        }
