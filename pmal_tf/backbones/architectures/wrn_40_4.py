"""WRN-40-4 (Zagoruyko and Komodakis 2016), the large backbone of the paper's Table 1.

Wide residual network of 40 layers, four times as wide: pre-activation blocks of two 3x3
convolutions, six in each of three groups. "9M parameters" and z with 256 entries fit
Section 6.1. Dropout 0 and the stride in a block's second convolution follow
`rpl/models/backbone_wide_resnet.py` of the KevLuo/OpenSet_ReciprocalPoints repository;
convolutions have no bias here, as in the original: a BatchNorm follows.
"""

from __future__ import annotations

import keras

from pmal_tf.backbones.layers import (
    ImageShape,
    batch_normalization,
    convolution,
    full_precision,
)

_STEM_CHANNELS = 16
_GROUPS = (64, 128, 256)
_BLOCKS = 6


def wrn_40_4(
    input_shape: ImageShape, *, width: float = 1.0, dropout: float = 0.0
) -> keras.Model:
    """Builds the trunk; at width 1 it has 8,946,640 trainable parameters, D = 256.

    `dropout` is the share dropped between the two convolutions of a block.
    """
    image = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1.0 / 255.0, name="rescale")(image)
    x = convolution(x, max(1, round(_STEM_CHANNELS * width)), 3, stride=1, name="stem")
    for group, channels in enumerate(_GROUPS):
        for block in range(_BLOCKS):
            x = _block(
                x,
                max(1, round(channels * width)),
                stride=2 if group > 0 and block == 0 else 1,
                dropout=dropout,
                name=f"group_{group}_block_{block}",
            )
    x = _activation(x, name="last")
    x = keras.layers.GlobalAveragePooling2D(dtype=full_precision(), name="embedding")(x)
    return keras.Model(image, x, name="wrn_40_4")


def _block(
    x: keras.KerasTensor, channels: int, *, stride: int, dropout: float, name: str
) -> keras.KerasTensor:
    """Two convolutions, each after its BatchNorm and ReLU, around a shortcut.

    Where shapes differ the shortcut is projected from the activated input.
    """
    shortcut = x
    x = _activation(x, name=f"{name}_0")
    if stride != 1 or shortcut.shape[-1] != channels:
        shortcut = convolution(x, channels, 1, stride=stride, name=f"{name}_shortcut")
    x = convolution(x, channels, 3, stride=1, name=f"{name}_0")
    x = _activation(x, name=f"{name}_1")
    if dropout:
        x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(x)
    x = convolution(x, channels, 3, stride=stride, name=f"{name}_1")
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])


def _activation(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """BatchNorm and ReLU."""
    return keras.layers.ReLU(name=f"{name}_relu")(batch_normalization(x, name))
