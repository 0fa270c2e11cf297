"""scikit-learn's bundled handwritten digits: real images that need no download."""

from __future__ import annotations

import functools

import numpy as np

from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions

_TEST_FRACTION = 0.3
_SPLIT_SEED = 0  # Fixed: the test set must not change with the seed of a run.


def _load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    """Returns the 1,797 8x8 digits, split 70/30 with the classes in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grey = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    image = np.repeat(grey[..., None], 3, axis=-1)
    if options.image_size not in (0, image.shape[1]):
        from pmal_tf.data.decoding.decode import resize_images

        image = resize_images(image, options.image_size).numpy().astype(np.uint8)
    everything = LabelledImages(
        image=image,
        label=bunch.target.astype(np.int32),
        example_id=np.array([str(index) for index in range(len(grey))]),
    )
    train, test = train_test_split(
        np.arange(len(everything)),
        test_size=_TEST_FRACTION,
        random_state=_SPLIT_SEED,
        stratify=everything.label,
    )
    return everything.take(np.sort(train)), everything.take(np.sort(test))


def _open(options: SourceOptions) -> Source:
    return Source(
        name="digits",
        class_names=tuple("0123456789"),
        natural=False,
        load=functools.partial(_load, options),
    )


DATASETS = (
    Dataset(
        name="digits",
        open=_open,
        prepare=lambda _: "digits come with scikit-learn: nothing to download",
    ),
)
