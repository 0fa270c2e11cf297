"""scikit-learn's bundled handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np

from pmal_tf.data.images import LabelledImages, Source

_TEST_FRACTION = 0.3
_SPLIT_SEED = 0  # Fixed: the test set must not change with the seed of a run.


def _load(data_dir: str | None) -> tuple[LabelledImages, LabelledImages]:
    """Returns the 1,797 8x8 digits, split 70/30 with the classes in proportion."""
    del data_dir  # The images come with scikit-learn.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grey = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    everything = LabelledImages(
        image=np.repeat(grey[..., None], 3, axis=-1),
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


def _prepare(data_dir: str | None) -> str:
    """Says that there is nothing to prepare."""
    del data_dir
    return "digits come with scikit-learn: nothing to download"


SOURCE = Source(
    name="digits",
    class_names=tuple(str(digit) for digit in range(10)),
    split_list="mnist",
    natural=False,
    load=_load,
    prepare=_prepare,
)
