"""MNIST (LeCun et al. 1998): 28x28 grey digits, resized to 32x32 RGB."""

from __future__ import annotations

from typing import Any

from pmal_tf.data import tfds_source
from pmal_tf.data.images import LabelledImages, Source

_SIZE = 32


def _to_rgb(images: Any) -> Any:
    """Resizes [batch, 28, 28, 1] to [batch, 32, 32, 3] uint8."""
    import tensorflow as tf

    from pmal_tf.data.resize import resize_images

    resized = tf.cast(resize_images(images, _SIZE, _SIZE), tf.uint8)
    return tf.image.grayscale_to_rgb(resized)


def _load(data_dir: str | None) -> tuple[LabelledImages, LabelledImages]:
    train, test = (
        tfds_source.load_split("mnist", split, data_dir, transform=_to_rgb)
        for split in ("train", "test")
    )
    return train, test


def _prepare(data_dir: str | None) -> str:
    return tfds_source.download("mnist", data_dir)


SOURCE = Source(
    name="mnist",
    class_names=tuple(str(digit) for digit in range(10)),
    split_list="mnist",
    natural=False,
    load=_load,
    prepare=_prepare,
)
