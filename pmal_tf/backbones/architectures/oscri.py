"""OSCRI, the light backbone of the paper (Neal et al. 2018).

Nine 3x3 convolutions in three groups; the last of each group halves the map. Global
average pooling gives z with 128 entries, which is what "less than 1M parameters" in
Section 6.1 fits (the flattened head of Neal's code has more). Sizes, dropout, slope,
BatchNorm and initialisers follow `models/models.py: classifier32` of the ARPL
repository, so `momentum` is PyTorch's 0.1 told in Keras's terms: 0.9.
"""

from __future__ import annotations

import keras

from pmal_tf.backbones.layers import full_precision

_GROUPS = ((64, 64, 128), (128, 128, 128), (128, 128, 128))


def oscri(
    input_shape: tuple[int | None, int | None, int],
    *,
    width: float = 1.0,
    dropout: float = 0.2,
) -> keras.Model:
    """Builds the trunk: images to embeddings.

    Args:
        input_shape: (H, W, 3); H and W may be None, since pooling is global.
        width: Multiplies every number of channels, for small machines; 1 is the
            paper's network, with 999,104 trainable parameters.
        dropout: Share of whole channels dropped before each group, the image included.

    Returns:
        A functional model from [batch, H, W, 3] images on the 0-255 scale, of any
        number type, to [batch, 128 * width] embeddings, at least in float32.
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
