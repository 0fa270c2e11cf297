"""OSCRI, the light backbone of the paper (Neal et al. 2018).

Nine 3x3 convolutions in three groups; the last of each group halves the map. Global
average pooling gives z with 128 entries, which is what "less than 1M parameters" in
Section 6.1 fits (the flattened head of Neal's code has more). Sizes, dropout, slope,
BatchNorm and initialisers follow `models/models.py: classifier32` of the ARPL
repository; `momentum` 0.9 is PyTorch's 0.1.
"""

from __future__ import annotations

import keras

from pmal_tf.backbones.layers import ImageShape, full_precision

_GROUPS = ((64, 64, 128), (128, 128, 128), (128, 128, 128))


def oscri(
    input_shape: ImageShape, *, width: float = 1.0, dropout: float = 0.2
) -> keras.Model:
    """Builds the trunk; at width 1 it has 999,104 trainable parameters, and D = 128.

    `dropout` is the share of whole channels dropped before each group, the image
    included.
    """
    image = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1.0 / 255.0, name="rescale")(image)
    for group, channels in enumerate(_GROUPS):
        x = keras.layers.SpatialDropout2D(dropout, name=f"dropout_{group}")(x)
        for position, filters in enumerate(channels):
            last = position == len(channels) - 1
            x = _convolution(
                x,
                filters=max(1, round(filters * width)),
                stride=2 if last else 1,
                name=f"{group * len(channels) + position + 1}",
            )
    x = keras.layers.GlobalAveragePooling2D(dtype=full_precision(), name="embedding")(x)
    return keras.Model(image, x, name="oscri")


def _convolution(
    x: keras.KerasTensor, *, filters: int, stride: int, name: str
) -> keras.KerasTensor:
    """Convolution, BatchNorm and LeakyReLU, padded by one pixel on every side.

    Padding is a layer of its own: at stride 2, `padding="same"` would pad below and to
    the right only.
    """
    x = keras.layers.ZeroPadding2D(1, name=f"pad_{name}")(x)
    x = keras.layers.Conv2D(
        filters,
        kernel_size=3,
        strides=stride,
        use_bias=False,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.05),
        name=f"conv_{name}",
    )(x)
    x = keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer=keras.initializers.RandomNormal(mean=1.0, stddev=0.02),
        name=f"norm_{name}",
    )(x)
    return keras.layers.LeakyReLU(negative_slope=0.2, name=f"relu_{name}")(x)
