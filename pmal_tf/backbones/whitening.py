"""A frozen first convolution that whitens the patches of the training images.

Neighbouring pixels say nearly the same, so a network's first layer spends its first
epochs on taking them apart. That layer is known in closed form: with the covariance
C = V diag(l) V^T of the images' small patches, the filters v_i / sqrt(l_i + epsilon)
give uncorrelated numbers of variance 1. Every filter stands there with its negative,
since a rectifier follows.

Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, Section 3.1,
after T. Li's "tysam-code/hlb-CIFAR10".
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.types import Images

# Added to the eigenvalues, for pixels in units of their standard deviation.
_EPSILON = 5e-4
# Pixels of the training images that a covariance is estimated from.
_MOST_PIXELS = 5000 * 32 * 32


@keras.saving.register_keras_serializable("pmal_tf")
class Whitening(keras.layers.Layer):
    """Whitens patches: [batch, H, W, C] to [batch, H - s + 1, W - s + 1, 2 s^2 C].

    Images are on the 0-255 scale, of any number type. Filters and the offset that takes
    the mean patch to 0 are found by `adapt` and never trained; the bias is. Computed in
    the weights' number type, since filters of small eigenvalues are long.

    Args:
        size: Side s of the patches in pixels.
        **kwargs: Those of `keras.layers.Layer`.
    """

    def __init__(self, size: int = 2, **kwargs: Any) -> None:
        # Pixels are whole numbers up to 255, which bfloat16 does not hold apart.
        super().__init__(**{**kwargs, "autocast": False})
        self.size = size

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights; the filters are 0 until `adapt` finds them."""
        channels = int(input_shape[-1] or 0)
        filters = 2 * self.size**2 * channels
        shape = (self.size, self.size, channels, filters)
        zeros = {"initializer": "zeros", "autocast": False}
        fixed = {**zeros, "trainable": False}
        self.kernel = self.add_weight(shape=shape, name="kernel", **fixed)
        self.offset = self.add_weight(shape=(filters,), name="offset", **fixed)
        self.bias = self.add_weight(shape=(filters,), name="bias", **zeros)

    @property
    def is_adapted(self) -> bool:
        """Whether the filters are found."""
        return bool(np.any(keras.ops.convert_to_numpy(self.kernel)))

    def adapt(self, images: np.ndarray) -> None:
        """Finds the filters from [n, H, W, C] images on the 0-255 scale.

        Raises:
            PmalError: If there are fewer patches than numbers in one, or all are equal.
        """
        kernel, offset = whitening_filters(images, self.size)
        self.kernel.assign(kernel)
        self.offset.assign(offset)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the whitened patches, in the layer's compute type."""
        images = tf.cast(inputs, self.variable_dtype)
        patches = tf.nn.conv2d(images, tf.convert_to_tensor(self.kernel), 1, "VALID")
        return tf.cast(patches + (self.offset + self.bias), self.compute_dtype)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Returns shape and type of the whitened patches."""
        batch, height, width, channels = inputs.shape
        sides = [s if s is None else s - self.size + 1 for s in (height, width)]
        shape = (batch, *sides, 2 * self.size**2 * channels)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size}


def whitening_filters(images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel [size, size, C, 2 size^2 C] of whitening, and its offset.

    The first half of the filters are the eigenvectors of the patches' covariance from
    large to small, over sqrt(eigenvalue + 5e-4) where pixels are in units of their
    channel's standard deviation; the second half are their negatives. With the offset
    [2 size^2 C] added, the mean pixel gives 0. Signs are fixed by each eigenvector's
    largest entry.

    Raises:
        PmalError: If there are fewer patches than numbers in one, or all are equal.
    """
    pixels = np.asarray(images, np.float64)
    count, height, width, channels = pixels.shape
    rows, columns = height - size + 1, width - size + 1
    numbers = size**2 * channels
    patches_there = count * max(rows, 0) * max(columns, 0)
    if patches_there < numbers:
        raise PmalError(
            f"Whitening needs at least {numbers} patches of {size} x {size} pixels. "
            f"Received: {patches_there}, in {count} images of {height} x {width} "
            "pixels. Take more or larger images, or another --backbone."
        )
    mean, deviation = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    if not deviation.any():
        raise PmalError(
            "Whitening needs images whose pixels differ. Received: "
            f"{count} images of one colour, {mean.tolist()}"
        )
    # A channel of one value has nothing to be whitened, and must not divide by 0.
    scale = np.where(deviation > 0, deviation, 1.0)
    standard = (pixels - mean) / scale
    patches = np.stack(
        [
            standard[:, i : i + rows, j : j + columns]
            for i in range(size)
            for j in range(size)
        ],
        axis=3,
    ).reshape(-1, numbers)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    vectors = vectors[:, ::-1] / np.sqrt(np.maximum(values[::-1], 0.0) + _EPSILON)
    largest = np.argmax(np.abs(vectors), axis=0)
    vectors *= np.sign(vectors[largest, np.arange(numbers)])
    filters = np.concatenate([vectors, -vectors], axis=1)
    kernel = filters.reshape(size, size, channels, 2 * numbers) / scale[:, None]
    return kernel, -np.einsum("ijcf,c->f", kernel, mean)


def _whitenings(network: keras.Model) -> list[Whitening]:
    """Returns the whitening layers of a network."""
    return [
        layer for layer in network._flatten_layers() if isinstance(layer, Whitening)
    ]


def adapt_whitening(network: keras.Model, images: Images) -> None:
    """Adapts a network's whitening to training images, if it has any that is not yet.

    Of [N, H, W, C] images, evenly spaced ones with 5 million pixels in all are looked
    at.

    Raises:
        PmalError: If there are too few patches, or all are equal.
    """
    fresh = [layer for layer in _whitenings(network) if not layer.is_adapted]
    if fresh:
        most = max(1, _MOST_PIXELS // (images.shape[1] * images.shape[2]))
        count = min(len(images), most)
        chosen = np.arange(count) * len(images) // count
        for layer in fresh:
            layer.adapt(images[chosen])


def check_adapted(network: keras.Model) -> None:
    """Checks that no whitening of a network was left without filters.

    Raises:
        PmalError: If one was: it would give 0 for every image.
    """
    for layer in _whitenings(network):
        if not layer.is_adapted:
            raise PmalError(
                "A network that whitens images must be adapted to training images "
                f"before it is trained. Received: {network.name}, whose layer "
                f"{layer.name} was not. Call `adapt_whitening(network, images)`."
            )
