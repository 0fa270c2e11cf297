"""The datasets by name: every file of `datasets/` that has `DATASETS`."""

from __future__ import annotations

import itertools

from pmal_tf.data import datasets
from pmal_tf.data.images import Dataset, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.plugins import found_in

SOURCES: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in sorted(
        itertools.chain(*found_in(datasets, "DATASETS")), key=lambda each: each.name
    )
}
# Options that one dataset alone has.
_OWNERS = {"held_out_classes": "folder", "unknown_dataset": "imagenet_lt"}


def get_dataset(name: str) -> Dataset:
    """Returns the dataset of a name; a `PmalError` if there is none."""
    if name not in SOURCES:
        raise PmalError(
            f"`dataset` must be one of {', '.join(SOURCES)}. Received: dataset={name!r}"
        )
    return SOURCES[name]


def open_source(name: str, options: SourceOptions) -> Source:
    """Finds a dataset; its images are not read yet.

    Raises:
        PmalError: If there is none, or an option is given that only others have.
    """
    dataset = get_dataset(name)
    for option, owner in _OWNERS.items():
        value = getattr(options, option)
        if value and name != owner:
            raise PmalError(
                f"`{option}` is for --dataset={owner} alone. Received: "
                f"{option}={value!r} with dataset={name!r}"
            )
    return dataset.open(options)
