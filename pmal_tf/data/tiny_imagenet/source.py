"""TinyImageNet (Stanford CS231N): 200 classes of ImageNet at 64 pixels.

500 training images a class; the 50 validation images a class are the test split, since
the official test images have no labels. Classes go by wnid, ascending.
"""

from __future__ import annotations

import functools

from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.read import find_prepared, load_encoded_split
from pmal_tf.data.tiny_imagenet import wnids

_SIZE = 64
_IMAGES = {"train": 100_000, "test": 10_000}


def _load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    train, test = (
        load_encoded_split(
            "tiny_imagenet",
            split,
            options,
            size=options.image_size or _SIZE,
            store=f"tiny_imagenet_{split}",
            about=about,
        )
        for split, about in _IMAGES.items()
    )
    return train, test


def _open(options: SourceOptions) -> Source:
    return Source(
        name="tiny_imagenet",
        class_names=wnids(),
        natural=True,
        load=functools.partial(_load, options),
        check=functools.partial(find_prepared, "tiny_imagenet", options.data_dir),
    )


def _prepare(options: SourceOptions) -> str:
    from pmal_tf.data.tiny_imagenet.prepare import prepare

    return prepare(options)


DATASET = Dataset(name="tiny_imagenet", open=_open, prepare=_prepare)
