"""The datasets by name. A new one is a file that makes a `Dataset`, and a line here."""

from __future__ import annotations

from pmal_tf.data import cifar10, cifar_plus, digits, folder, imagenet, mnist, svhn
from pmal_tf.data.images import Dataset, Source, SourceOptions
from pmal_tf.data.tiny_imagenet import source as tiny_imagenet
from pmal_tf.errors import PmalError

SOURCES: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        digits.DATASET,
        mnist.DATASET,
        svhn.DATASET,
        cifar10.DATASET,
        cifar_plus.CIFAR_PLUS_10,
        cifar_plus.CIFAR_PLUS_50,
        tiny_imagenet.DATASET,
        imagenet.IMAGENET_100,
        imagenet.IMAGENET_200,
        imagenet.IMAGENET_LT,
        folder.DATASET,
    )
}


def get_dataset(name: str) -> Dataset:
    """Returns the dataset of a name.

    Raises:
        PmalError: If there is none.
    """
    if name not in SOURCES:
        raise PmalError(
            f"`dataset` must be one of {', '.join(SOURCES)}. Received: dataset={name!r}"
        )
    return SOURCES[name]


def open_source(name: str, options: SourceOptions) -> Source:
    """Finds a dataset; its images are not read yet.

    Raises:
        PmalError: If there is none of that name, or it is not there, or an option is
            given that only other datasets have.
    """
    dataset = get_dataset(name)
    for option, owner in (
        ("held_out_classes", "folder"),
        ("unknown_dataset", "imagenet_lt"),
    ):
        if getattr(options, option) and name != owner:
            raise PmalError(
                f"`{option}` is for --dataset={owner} alone. Received: "
                f"{option}={getattr(options, option)!r} with dataset={name!r}"
            )
    return dataset.open(options)
