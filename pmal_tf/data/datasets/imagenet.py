"""ImageNet-100, ImageNet-200 and ImageNet-LT (Section 6.2), at 224 pixels.

ImageNet-100 and -200: the first classes of ILSVRC 2012 by ascending wnid are known, the
others unknown; the 50 validation images a class are the test images. ImageNet-LT (Liu
et al. 2019): all 1,000 classes known, with 5 to 1,280 training images; the unknown
images come from a second prepared dataset.

Images are decoded once, onto the disk: 150 kB each, so 20 GB for the training images of
ImageNet-100 and 7.5 GB for its test images.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from pmal_tf.data.class_lists import class_names
from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import prepare_all, tfds_dataset
from pmal_tf.data.tfds.read import load_encoded_split
from pmal_tf.runtime.errors import PmalError

_IMAGES_PER_CLASS, _TEST_IMAGES = 1_300, 50_000
_LT_TRAINING_IMAGES = 115_846
# The wnids of ILSVRC 2012, ascending, which is label order.
_WNIDS = class_names("imagenet_wnids.txt")

_load_encoded = functools.partial(load_encoded_split, size=224)


def _first_classes(name: str, known: int) -> Dataset:
    """Makes the entry of ImageNet-100 or -200."""

    def load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
        train = _load_encoded(
            "imagenet2012",
            "train",
            options,
            about=known * _IMAGES_PER_CLASS,
            store=f"{name}_train",
            keep_label=lambda label: label < known,
        )
        test = _load_encoded(
            "imagenet2012",
            "validation",
            options,
            about=_TEST_IMAGES,
            store="imagenet_validation",
        )
        return train, test

    return tfds_dataset(name, _WNIDS, load, ("imagenet2012",))


def _load_long_tailed(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    """Reads ImageNet-LT, and the unknown images behind its test images."""
    name, split = _unknown_split(options)
    train = _load_encoded("imagenet_lt", "train", options, about=_LT_TRAINING_IMAGES)
    known = _load_encoded("imagenet_lt", "test", options, about=_TEST_IMAGES)
    store = f"unknown_{name}_{split}"
    unknown = _load_encoded(name, split, options, about=_TEST_IMAGES, store=store)
    label = np.full(len(unknown), len(_WNIDS), np.int32)
    ids = np.char.add(f"{name}/", unknown.example_id)
    return train, known.followed_by(LabelledImages(unknown.image, label, ids))


def _unknown_split(options: SourceOptions) -> tuple[str, str]:
    """Returns the name and the split of the dataset of unknown images."""
    name, _, split = options.unknown_dataset.partition(":")
    return name, split or "test"


def _open_long_tailed(options: SourceOptions) -> Source:
    if not options.unknown_dataset:
        raise PmalError(
            "imagenet_lt has no unknown classes of its own. Name a prepared dataset "
            "whose classes are none of ImageNet's, as --unknown_dataset=NAME or "
            "NAME:SPLIT. Received: unknown_dataset=''"
        )
    unknown = (options.unknown_dataset,)
    needs = ("imagenet_lt", _unknown_split(options)[0])
    dataset = tfds_dataset("imagenet_lt", _WNIDS + unknown, _load_long_tailed, needs)
    return dataclasses.replace(
        dataset.open(options), own_split=(_WNIDS, unknown), own_protocol="paper"
    )


DATASETS = (
    _first_classes("imagenet100", 100),
    _first_classes("imagenet200", 200),
    Dataset(
        name="imagenet_lt",
        open=_open_long_tailed,
        prepare=functools.partial(prepare_all, ("imagenet_lt",)),
    ),
)
