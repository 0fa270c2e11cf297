"""A dataset whose images lie in prepared TensorFlow Datasets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import resources

from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import prepare_all
from pmal_tf.data.tfds.read import find_prepared


def tfds_dataset(
    name: str,
    class_names: tuple[str, ...],
    load: Callable[[SourceOptions], tuple[LabelledImages, LabelledImages]],
    needs: Sequence[str],
    *,
    natural: bool = True,
    prepare: Callable[[SourceOptions], str] | None = None,
) -> Dataset:
    """Makes a dataset that `needs` what TensorFlow Datasets calls by these names.

    `load` reads train and test images. They may be mirrored and shifted in training if
    they are `natural`. Without `prepare`, TensorFlow Datasets prepares what is needed.
    """

    def open_dataset(options: SourceOptions) -> Source:
        return Source(
            name=name,
            class_names=class_names,
            natural=natural,
            load=functools.partial(load, options),
            check=functools.partial(check_prepared, needs, options),
        )

    return Dataset(name, open_dataset, prepare or functools.partial(prepare_all, needs))


def check_prepared(needs: Sequence[str], options: SourceOptions) -> None:
    """Looks for prepared datasets.

    Raises:
        PmalError: If one is missing.
    """
    for name in needs:
        find_prepared(name, options.data_dir)


def class_list(file: str) -> tuple[str, ...]:
    """Returns the class names in a text file beside `pmal_tf.data`'s modules."""
    return tuple((resources.files("pmal_tf.data") / file).read_text().split())
