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
class IdentityConvolution(keras.initializers.Initializer):
    """Lets the first filters pass their channels on; the others are drawn.

    Of a [h, w, C, F] kernel, filter f < C is 1 at the centre of channel f and 0
    elsewhere; the entries of the others are uniform in +-1 / sqrt(h w C), as PyTorch
    draws them.
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """Returns a kernel of a shape."""
        height, width, channels, filters = shape
        bound = (height * width * channels) ** -0.5
        drawn = keras.random.uniform(shape, -bound, bound, dtype=dtype)
        passed = min(channels, filters)
        identity = keras.ops.eye(channels, passed, dtype=dtype)
        around = [[side // 2, (side - 1) // 2] for side in (height, width)]
        identity = keras.ops.pad(identity[None, None], [*around, [0, 0], [0, 0]])
        return keras.ops.concatenate([identity, drawn[..., passed:]], axis=-1)


@keras.saving.register_keras_serializable("pmal_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm over the last axis whose training step is one fused operation.

    Keras composes it of moments and arithmetic, in float32 under half precision too,
    which takes several passes over the map. The moving variance is Bessel's, as
    PyTorch's. Float64, and replicas that are to see the global batch, take Keras's way.
    """

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: None = None
    ) -> tf.Tensor:
        """Normalises [batch, H, W, C], in training by the batch's own moments."""
        fused = inputs.dtype != tf.float64 and not self.synchronized
        if not training or not self.trainable or not fused:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        scale, offset = (
            tf.fill([channels], value) if given is None else tf.cast(given, tf.float32)
            for given, value in ((self.gamma, 1.0), (self.beta, 0.0))
        )
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, new in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            moving.assign(moving * self.momentum + new * (1.0 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable("pmal_tf")
class SigmoidGELU(keras.layers.Layer):
    """GELU in its authors' second approximation, x sigmoid(1.702 x).

    It is within 0.021 of x Phi(x), and one operation with a gradient of its own, where
    the error function's is composed of several passes over the map (Hendrycks and
    Gimpel, "Gaussian Error Linear Units", 2016).
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns numbers of the inputs' shape."""
        return tf.nn.silu(inputs, beta=1.702)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns shape and type of the inputs."""
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


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
