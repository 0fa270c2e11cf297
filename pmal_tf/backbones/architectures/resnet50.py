"""ResNet-50 (He et al. 2016), the backbone of the paper's ImageNet experiments.

Version 1.5: a block that halves the map does so in its 3x3 convolution, not in the 1x1
before it. Global average pooling gives z with 2,048 entries, which the parameter counts
of the paper's Table 2 imply. `keras.applications.ResNet50` is version 1 with biases.
"""

from __future__ import annotations

import keras

from pmal_tf.backbones.layers import (
    ImageShape,
    batch_normalization,
    convolution,
    full_precision,
)
from pmal_tf.runtime.errors import PmalError

# Bottleneck channels and blocks of the four groups.
_GROUPS = ((64, 3), (128, 4), (256, 6), (512, 3))
_EXPANSION = 4


def resnet50(
    input_shape: ImageShape, *, width: float = 1.0, dropout: float = 0.0
) -> keras.Model:
    """Builds the trunk; at width 1 it has 23,508,032 trainable parameters, D = 2,048.

    Raises:
        PmalError: If `dropout` is not 0: the network has none.
    """
    if dropout:
        raise PmalError(
            f"`dropout` of resnet50 must be 0. Received: dropout={dropout}. Set "
            "--dropout=0."
        )
    image = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1.0 / 255.0, name="rescale")(image)
    x = _convolution(x, max(1, round(64 * width)), 7, stride=2, name="stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    # Padded with zeros, which never exceed what a ReLU gives.
    x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    for group, (channels, blocks) in enumerate(_GROUPS):
        for block in range(blocks):
            x = _bottleneck(
                x,
                max(1, round(channels * width)),
                stride=2 if group > 0 and block == 0 else 1,
                name=f"group_{group}_block_{block}",
            )
    x = keras.layers.GlobalAveragePooling2D(dtype=full_precision(), name="embedding")(x)
    return keras.Model(image, x, name="resnet50")


def _bottleneck(
    x: keras.KerasTensor, channels: int, *, stride: int, name: str
) -> keras.KerasTensor:
    """Three convolutions around a shortcut, which is projected where shapes differ."""
    shortcut = x
    if stride != 1 or x.shape[-1] != _EXPANSION * channels:
        shortcut = _convolution(
            x, _EXPANSION * channels, 1, stride=stride, name=f"{name}_shortcut"
        )
    for position, (size, steps) in enumerate(((1, 1), (3, stride))):
        part = f"{name}_{position}"
        x = _convolution(x, channels, size, stride=steps, name=part)
        x = keras.layers.ReLU(name=f"{part}_relu")(x)
    x = _convolution(x, _EXPANSION * channels, 1, stride=1, name=f"{name}_2")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _convolution(
    x: keras.KerasTensor, filters: int, size: int, *, stride: int, name: str
) -> keras.KerasTensor:
    """Convolution and BatchNorm."""
    x = convolution(x, filters, size, stride=stride, name=name)
    return batch_normalization(x, name)
