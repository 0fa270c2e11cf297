"""ImageNet-100, ImageNet-200 and ImageNet-LT (Section 6.2), at 224 pixels.

ImageNet-100 and -200: the first classes of ILSVRC 2012 by ascending wnid are known, the
others unknown; the 50 validation images a class are the test images. ImageNet-LT (Liu
et al. 2019): all 1,000 classes known, with 5 to 1,280 training images; the unknown
images come from a second prepared dataset.

Images are decoded once, onto the disk: 150 kB each, so 20 GB for the training images of
ImageNet-100 and 7.5 GB for its test images.
"""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np

from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import prepare_all
from pmal_tf.data.tfds.read import check_prepared, load_encoded_split
from pmal_tf.runtime.errors import PmalError

_SIZE = 224
_IMAGES_PER_CLASS, _TEST_IMAGES = 1_300, 50_000
_LT_TRAINING_IMAGES = 115_846


@functools.cache
def _wnids() -> tuple[str, ...]:
    """Returns the 1,000 wnids of ILSVRC 2012, ascending, which is label order."""
    file = resources.files("pmal_tf.data") / "imagenet_wnids.txt"
    return tuple(file.read_text().split())


def _load_first(
    options: SourceOptions, known: int
) -> tuple[LabelledImages, LabelledImages]:
    """Reads the training images of the first classes, and all test images."""
    size = options.image_size or _SIZE
    train = load_encoded_split(
        "imagenet2012",
        "train",
        options,
        size=size,
        store=f"imagenet{known}_train",
        about=known * _IMAGES_PER_CLASS,
        keep_label=lambda label: label < known,
    )
    test = load_encoded_split(
        "imagenet2012",
        "validation",
        options,
        size=size,
        store="imagenet_validation",
        about=_TEST_IMAGES,
    )
    return train, test


def _first_classes(name: str, known: int) -> Dataset:
    """Makes the entry of ImageNet-100 or -200."""

    def open_dataset(options: SourceOptions) -> Source:
        return Source(
            name=name,
            class_names=_wnids(),
            natural=True,
            load=functools.partial(_load_first, options, known),
            check=functools.partial(check_prepared, ("imagenet2012",), options),
        )

    return Dataset(
        name=name,
        open=open_dataset,
        prepare=functools.partial(prepare_all, ("imagenet2012",)),
    )


def _load_long_tailed(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    """Reads ImageNet-LT, and the unknown images behind its test images."""
    name, split = _unknown_split(options)
    size = options.image_size or _SIZE
    train, known = (
        load_encoded_split(
            "imagenet_lt",
            of_known,
            options,
            size=size,
            store=f"imagenet_lt_{of_known}",
            about=about,
        )
        for of_known, about in (("train", _LT_TRAINING_IMAGES), ("test", _TEST_IMAGES))
    )
    unknown = load_encoded_split(
        name,
        split,
        options,
        size=size,
        store=f"unknown_{name}_{split}",
        about=_TEST_IMAGES,
    )
    return train, known.followed_by(
        LabelledImages(
            image=unknown.image,
            label=np.full(len(unknown), len(_wnids()), np.int32),
            example_id=np.char.add(f"{name}/", unknown.example_id),
        )
    )


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
    known, unknown = _wnids(), (options.unknown_dataset,)
    needed = ("imagenet_lt", _unknown_split(options)[0])
    return Source(
        name="imagenet_lt",
        class_names=(*known, *unknown),
        natural=True,
        load=functools.partial(_load_long_tailed, options),
        check=functools.partial(check_prepared, needed, options),
        own_split=(known, unknown),
        own_protocol="paper",
    )


IMAGENET_100 = _first_classes("imagenet100", 100)
IMAGENET_200 = _first_classes("imagenet200", 200)
IMAGENET_LT = Dataset(
    name="imagenet_lt",
    open=_open_long_tailed,
    prepare=functools.partial(prepare_all, ("imagenet_lt",)),
)
DATASETS = (IMAGENET_100, IMAGENET_200, IMAGENET_LT)
