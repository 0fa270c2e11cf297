"""airbench94, a network that learns CIFAR-10 in minutes on two CPU cores.

K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, and its repository
KellerJordan/cifar10-airbench, `legacy/airbench94.py`: patches of 2 x 2 pixels are
whitened by a frozen convolution; three blocks of two 3x3 convolutions each, of which
the first is followed by a max-pool that halves the map, have 64, 256 and 256 channels;
the largest number over the map, divided by 9, is the embedding. BatchNorm has no scale,
and convolutions start as the identity.

The original's last pool takes a 3 x 3 map, all of it for images of 32 pixels; here it
takes all of any map. Its head has no bias; here every backbone's has one. Of images
below 9 pixels, whose map would vanish, pools keep the last row and column too.
"""

from __future__ import annotations

import keras

from pmal_tf.backbones.layers import (
    FusedBatchNormalization,
    IdentityConvolution,
    ImageShape,
    SigmoidGELU,
    full_precision,
)
from pmal_tf.backbones.whitening import Whitening
from pmal_tf.runtime.errors import PmalError

_CHANNELS = (64, 256, 256)
_EMBEDDING_SCALE = 1.0 / 9.0
# Below, three pools of whole squares leave nothing.
_LEAST_SIDE = 9


def airbench(
    input_shape: ImageShape, *, width: float = 1.0, dropout: float = 0.0
) -> keras.Model:
    """Builds the trunk; at width 1 it has 1,968,792 trainable parameters, and D = 256.

    Before it is trained, `pmal_tf.backbones.whitening.adapt_whitening` adapts it to the
    training images.

    Raises:
        PmalError: If `dropout` is not 0: the network has none.
    """
    if dropout:
        raise PmalError(
            f"`dropout` of airbench must be 0. Received: dropout={dropout}. Set "
            "--dropout=0."
        )
    small = any(side is not None and side < _LEAST_SIDE for side in input_shape[:2])
    padding = "same" if small else "valid"
    image = keras.Input(input_shape, name="image")
    x = Whitening(name="whitening")(image)
    x = SigmoidGELU(name="whitening_gelu")(x)
    for block, channels in enumerate(_CHANNELS):
        filters = max(1, round(channels * width))
        x = _convolution(x, filters, f"block_{block}_0", pool=padding)
        x = _convolution(x, filters, f"block_{block}_1")
    x = keras.layers.GlobalMaxPooling2D(dtype=full_precision(), name="pool")(x)
    x = keras.layers.Rescaling(
        _EMBEDDING_SCALE, dtype=full_precision(), name="embedding"
    )(x)
    return keras.Model(image, x, name="airbench")


def _convolution(
    x: keras.KerasTensor, filters: int, name: str, *, pool: str = ""
) -> keras.KerasTensor:
    """Convolution, max-pool of a padding if one is given, BatchNorm and GELU."""
    x = keras.layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=IdentityConvolution(),
        name=f"{name}_conv",
    )(x)
    if pool:
        x = keras.layers.MaxPooling2D(2, padding=pool, name=f"{name}_pool")(x)
    x = FusedBatchNormalization(
        momentum=0.6, epsilon=1e-5, scale=False, name=f"{name}_norm"
    )(x)
    return SigmoidGELU(name=f"{name}_gelu")(x)
