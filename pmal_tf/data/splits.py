"""Which classes are known and which are unknown, by protocol and trial.

`python -m pmal_tf.data.splits --dataset=cifar10 --protocol=neal` prints the splits
with their image counts.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from importlib import resources

import numpy as np
from absl import app, flags

from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.sources import SOURCES, get_source
from pmal_tf.errors import PmalError

PROTOCOLS = ("paper", "neal")


@dataclass(frozen=True)
class OpenSetSplit:
    """Known and unknown classes of one trial.

    Attributes:
        dataset: Name of the dataset.
        protocol: `neal`: 6 known and 4 unknown classes, what Neal et al. 2018 and later
            work do. `paper`: 4 known and 6 unknown, as the text of the PMAL paper says;
            the same lists with the two sides swapped.
        trial: Number of the trial.
        known: Names of the known classes, ascending by dataset label; the position of
            a name is its class index.
        unknown: Names of the unknown classes, in the same order.
    """

    dataset: str
    protocol: str
    trial: int
    known: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def openness(self) -> float:
        """Openness of Scheirer et al. 2013, in [0, 1).

        1 - sqrt(2 K / (K + K + U)): K classes are trained on and recognised, K + U are
        tested.
        """
        known = len(self.known)
        return 1.0 - math.sqrt(2 * known / (2 * known + len(self.unknown)))


def _published_trials(source: Source) -> list[dict[str, list[str]]]:
    """Returns the published class lists that apply to a source."""
    file = resources.files("pmal_tf.data") / "open_set_splits.json"
    return json.loads(file.read_text())["arpl"][source.split_list]


def number_of_trials(source: Source) -> int:
    """Returns how many trials a dataset has."""
    return len(_published_trials(source))


def open_set_split(source: Source, protocol: str, trial: int) -> OpenSetSplit:
    """Returns the classes of one trial.

    Raises:
        PmalError: If the protocol or trial does not exist, or a class is not of the
            dataset, or on both sides.
    """
    if protocol not in PROTOCOLS:
        raise PmalError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}. "
            f"Received: protocol={protocol!r}"
        )
    trials = _published_trials(source)
    if not 0 <= trial < len(trials):
        raise PmalError(
            f"`trials` of {source.name} must lie in 0..{len(trials) - 1}. "
            f"Received: trial={trial}"
        )
    entry = trials[trial]
    sides = (entry["known"], entry["unknown"])
    known, unknown = sides if protocol == "neal" else reversed(sides)
    return make_split(source, protocol, trial, known, unknown)


def make_split(
    source: Source, protocol: str, trial: int, known: list[str], unknown: list[str]
) -> OpenSetSplit:
    """Checks two lists of class names and orders them by dataset label.

    Raises:
        PmalError: If a name is not a class of the dataset, or is on both sides.
    """
    strangers = [name for name in [*known, *unknown] if name not in source.class_names]
    if strangers:
        raise PmalError(
            f"A split of {source.name} may name only its classes "
            f"({', '.join(source.class_names)}). Received: {strangers}"
        )
    both = sorted(set(known) & set(unknown))
    if both:
        raise PmalError(f"A class cannot be known and unknown. Received: {both}")
    order = source.class_names.index
    return OpenSetSplit(
        dataset=source.name,
        protocol=protocol,
        trial=trial,
        known=tuple(sorted(known, key=order)),
        unknown=tuple(sorted(unknown, key=order)),
    )


def apply_split(
    source: Source, split: OpenSetSplit, train: LabelledImages, test: LabelledImages
) -> tuple[LabelledImages, LabelledImages]:
    """Keeps the known classes for training and the classes of both sides for testing.

    Args:
        source: Where the images are from.
        split: The classes.
        train: The dataset's training images, with dataset labels.
        test: The dataset's test images, with dataset labels.

    Returns:
        Training images of the known classes, and all test images; labels are class
        indices, -1 for unknown classes.

    Raises:
        PmalError: If a class has no images.
    """
    class_index = np.full(len(source.class_names), -1, np.int32)
    listed = np.zeros(len(source.class_names), bool)
    for name in (*split.known, *split.unknown):
        listed[source.class_names.index(name)] = True
    for index, name in enumerate(split.known):
        class_index[source.class_names.index(name)] = index

    def remap(images: LabelledImages) -> LabelledImages:
        kept = images.take(listed[images.label])
        return LabelledImages(kept.image, class_index[kept.label], kept.example_id)

    known_train, all_test = remap(train), remap(test)
    known_train = known_train.take(~known_train.is_unknown)
    for side, images in (("training", known_train), ("test", all_test)):
        counts = np.bincount(
            images.label[~images.is_unknown], minlength=len(split.known)
        )
        empty = [split.known[index] for index in np.flatnonzero(counts == 0)]
        if empty:
            raise PmalError(
                f"Every known class of {source.name} needs {side} images. "
                f"Received: none for {', '.join(empty)}"
            )
    if split.unknown and not all_test.is_unknown.any():
        raise PmalError(
            f"The unknown classes of {source.name} need test images. Received: none "
            f"for {', '.join(split.unknown)}"
        )
    return known_train, all_test


def describe_splits(dataset: str, protocol: str, data_dir: str | None) -> str:
    """Returns a text with the classes and image counts of every trial."""
    source = get_source(dataset)
    train, test = source.load(data_dir)
    lines = []
    seen: dict[tuple[str, ...], int] = {}
    for trial in range(number_of_trials(source)):
        split = open_set_split(source, protocol, trial)
        known_train, all_test = apply_split(source, split, train, test)
        unknown_count = int(all_test.is_unknown.sum())
        first = seen.setdefault(split.known, trial)
        same = f"  (the same classes as trial {first})" if first != trial else ""
        lines += [
            f"{dataset} {protocol} trial {trial}: openness {split.openness:.4f}{same}",
            f"  known:   {', '.join(split.known)}",
            f"  unknown: {', '.join(split.unknown)}",
            f"  images:  {len(known_train):,} training, "
            f"{len(all_test) - unknown_count:,} known test, "
            f"{unknown_count:,} unknown test",
        ]
    return "\n".join(lines)


def _main(argv: list[str]) -> None:
    """Prints the splits that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    try:
        text = describe_splits(values.dataset, values.protocol, values.data_dir)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("dataset", "digits", f"One of {', '.join(SOURCES)}.")
    flags.DEFINE_string("protocol", "paper", f"One of {', '.join(PROTOCOLS)}.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared datasets.")
    app.run(_main)
