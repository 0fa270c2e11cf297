"""Classes held out of the known ones, to choose hyper-parameters on.

The unknown classes of a test must not be looked at before the test. So, for tuning,
some of the known classes play the unknown, and are withheld from every training stage;
and no test image is looked at, not of a known class either.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pmal_tf.data.hashing import hash_ids
from pmal_tf.data.images import LabelledImages, Source, proportional_share
from pmal_tf.data.splits import OpenSetSplit, apply_split
from pmal_tf.runtime.errors import PmalError

# Ends the name of a protocol whose known classes were split once more.
TUNING = "_tuning"
# Share of the known classes, and of the training images of the others.
_CLASS_SHARE = 1 / 3
_IMAGE_SHARE = 0.2
_LEAST_KNOWN = 3


def hold_out_classes(split: OpenSetSplit, seed: int) -> OpenSetSplit:
    """Splits the known classes once more: a third, at least one, plays the unknown.

    The unknown classes of the final run's split take no part.

    Raises:
        PmalError: If fewer than two known classes would be left.
    """
    count = len(split.known)
    if count < _LEAST_KNOWN:
        raise PmalError(
            f"Tuning holds known classes out, so it needs at least {_LEAST_KNOWN}: one "
            f"to hold out and two to tell apart. Received: {', '.join(split.known)}"
        )
    held_out = np.random.default_rng(seed).choice(
        count, size=max(1, int(count * _CLASS_SHARE)), replace=False
    )
    return dataclasses.replace(
        split,
        protocol=split.protocol + TUNING,
        known=tuple(split.known[i] for i in range(count) if i not in held_out),
        unknown=tuple(split.known[i] for i in sorted(held_out)),
    )


def images_of_held_out(
    source: Source, split: OpenSetSplit, train: LabelledImages, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Splits a dataset's training images to tune on, by a split of `hold_out_classes`.

    Returns:
        Images of the known classes to train on; and images to validate on: a fifth of
        each known class, and all of the classes that are held out. Labels are class
        indices, -1 for classes that are held out.
    """
    rng = np.random.default_rng(seed)
    rank = hash_ids(train.example_id, "tuning images", seed)
    withheld = proportional_share(train.label, rank, _IMAGE_SHARE, start=rng.random())
    held_out = [source.class_names.index(name) for name in split.unknown]
    is_validation = withheld | np.isin(train.label, held_out)
    return apply_split(
        source, split, train.take(~is_validation), train.take(is_validation)
    )
