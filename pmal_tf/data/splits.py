"""Which classes are known and which are unknown, by protocol and trial.

`python -m pmal_tf.data.splits --dataset=cifar10 --protocol=neal` prints the splits
with their image counts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from absl import app, flags, logging

from pmal_tf.data.class_lists import (
    Sides,
    all_protocols,
    check_sides,
    published_trials,
)
from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import SOURCES, open_source
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError

# What a result made with `--known_classes` names as its protocol.
CUSTOM = "custom"


@dataclass(frozen=True)
class OpenSetSplit:
    """Known and unknown classes of one trial.

    Attributes:
        dataset: Name of the dataset.
        protocol: Where the classes are from. `neal`: 6 known and 4 unknown, what Neal
            et al. 2018 and later work do. `paper`: what the text of the PMAL paper
            says, for digits 4 known and 6 unknown, the same lists with the two sides
            swapped. `arpl`: the lists of ARPL where they are something else. `custom`:
            the user's. `folder`: the user's images.
        trial: Number of the trial.
        known: Names of the known classes, ascending by dataset label; the position of
            a name is its class index.
        unknown: Names of the unknown classes, in the same order; may be empty.
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


def listed_trials(source: Source, protocol: str) -> list[Sides]:
    """Returns the known and unknown classes of every trial that a source has.

    Raises:
        PmalError: If it has no such protocol.
    """
    if source.own_split is None:
        return published_trials(source.name, protocol, source.class_names)
    if protocol != "paper":
        raise PmalError(
            f"{source.name} has one split of its own; leave --protocol at its default. "
            f"Received: protocol={protocol!r}"
        )
    return [source.own_split]


def open_set_split(
    source: Source, protocol: str, trial: int, known_classes: Sequence[str] = ()
) -> OpenSetSplit:
    """Returns the classes of one trial.

    Where there is one split only, every trial has it, and trials differ by seed.

    Args:
        source: The dataset.
        protocol: One of its protocols.
        trial: Number of the trial.
        known_classes: Known classes chosen by the user; all others of the trial's are
            unknown then.

    Raises:
        PmalError: If the protocol or trial does not exist, or a class is not of the
            dataset, or on both sides.
    """
    if known_classes and source.own_split is not None:
        raise PmalError(
            "`known_classes` chooses among published lists; for --dataset=folder, name "
            "the other classes with --held_out_classes. Received: "
            f"known_classes={list(known_classes)} with dataset={source.name!r}"
        )
    trials = listed_trials(source, protocol)
    if not (0 <= trial < len(trials) or (len(trials) == 1 and trial >= 0)):
        raise PmalError(
            f"`trials` of {source.name} must lie in 0..{len(trials) - 1}. "
            f"Received: trial={trial}"
        )
    known, unknown = trials[trial % len(trials)]
    if known_classes:
        chosen = set(known_classes)
        others = [name for name in (*known, *unknown) if name not in chosen]
        return make_split(source, CUSTOM, trial, known_classes, others)
    return make_split(source, source.own_protocol or protocol, trial, known, unknown)


def make_split(
    source: Source,
    protocol: str,
    trial: int,
    known: Sequence[str],
    unknown: Sequence[str],
) -> OpenSetSplit:
    """Checks two lists of class names and orders them by dataset label.

    Raises:
        PmalError: If a name is not a class of the dataset, or is named twice, or fewer
            than two classes are known.
    """
    check_sides(known, unknown, dataset=source.name, class_names=source.class_names)
    if len(known) < 2:
        raise PmalError(
            "At least two classes must be known: a classifier of one has nothing to "
            f"tell apart. Received: known classes {list(known)} of {source.name}"
        )
    order = {name: label for label, name in enumerate(source.class_names)}
    return OpenSetSplit(
        dataset=source.name,
        protocol=protocol,
        trial=trial,
        known=tuple(sorted(known, key=order.__getitem__)),
        unknown=tuple(sorted(unknown, key=order.__getitem__)),
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
        PmalError: If a known class has no training images, or no test images are
            known, or none are unknown though classes are.
    """
    class_index = np.full(len(source.class_names), -1, np.int32)
    listed = np.zeros(len(source.class_names), bool)
    label_of = {name: label for label, name in enumerate(source.class_names)}
    for name in (*split.known, *split.unknown):
        listed[label_of[name]] = True
    for index, name in enumerate(split.known):
        class_index[label_of[name]] = index

    def remap(images: LabelledImages, kept: np.ndarray) -> LabelledImages:
        chosen = images.take(np.flatnonzero(kept))
        return LabelledImages(
            chosen.image, class_index[chosen.label], chosen.example_id
        )

    known_train = remap(train, class_index[train.label] >= 0)
    all_test = remap(test, listed[test.label])
    missing = _without_images(split, known_train)
    if missing:
        raise PmalError(
            f"Every known class of {source.name} needs training images. "
            f"Received: none for {', '.join(missing)}"
        )
    missing = _without_images(split, all_test)
    if len(missing) == len(split.known):
        raise PmalError(
            f"The known classes of {source.name} need test images. Received: none"
        )
    if missing:
        logging.warning(
            "No test images of %s: results say nothing of %s.",
            *(", ".join(missing), "this class" if len(missing) == 1 else "these"),
        )
    if split.unknown and not all_test.is_unknown.any():
        raise PmalError(
            f"The unknown classes of {source.name} need test images. Received: none "
            f"for {', '.join(split.unknown)}"
        )
    return known_train, all_test


def _without_images(split: OpenSetSplit, images: LabelledImages) -> list[str]:
    """Returns the known classes without an image."""
    present = np.bincount(images.label[~images.is_unknown], minlength=len(split.known))
    return [split.known[index] for index in np.flatnonzero(present == 0)]


def trials_of_equal_classes(
    known_by_trial: Iterable[tuple[int, Sequence[str]]],
) -> list[list[int]]:
    """Groups trials that have the same known classes; such differ by seed only.

    Args:
        known_by_trial: Numbers of trials and their known classes.

    Returns:
        The groups of at least two trials.
    """
    groups: dict[frozenset[str], list[int]] = {}
    for trial, known in known_by_trial:
        groups.setdefault(frozenset(known), []).append(trial)
    return [group for group in groups.values() if len(group) > 1]


def describe_splits(
    dataset: str,
    protocol: str,
    options: SourceOptions,
    known_classes: Sequence[str] = (),
) -> str:
    """Returns a text with the classes and image counts of every trial.

    Where the dataset is not prepared it has no counts, but says so.
    """
    source = open_source(dataset, options)
    count = 1 if known_classes else len(listed_trials(source, protocol))
    splits = [
        open_set_split(source, protocol, trial, known_classes) for trial in range(count)
    ]
    groups = trials_of_equal_classes((split.trial, split.known) for split in splits)
    first = {trial: group[0] for group in groups for trial in group[1:]}
    images, note = None, ""
    try:
        source.check()
    except PmalError as error:
        note = f"\nImages are not counted: {error}"
    else:
        images = source.load()
    lines = []
    for split in splits:
        same = ""
        if split.trial in first:
            same = f"  (the same known classes as trial {first[split.trial]})"
        lines += [
            f"{dataset} {split.protocol} trial {split.trial}: "
            f"openness {split.openness:.4f}{same}",
            f"  known:   {', '.join(split.known)}",
            f"  unknown: {', '.join(split.unknown) or 'none'}",
        ]
        if images is not None:
            train, test = apply_split(source, split, *images)
            unknown = int(test.is_unknown.sum())
            lines.append(
                f"  images:  {len(train):,} training, {len(test) - unknown:,} known "
                f"test, {unknown:,} unknown test"
            )
    return "\n".join(lines) + note


def _main(argv: list[str]) -> None:
    """Prints the splits that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    plain_messages()
    values = flags.FLAGS
    options = SourceOptions(
        data_dir=values.data_dir,
        cache_dir=values.cache_dir,
        image_size=values.image_size,
        max_unreadable=values.max_unreadable,
        held_out_classes=tuple(values.held_out_classes),
        unknown_dataset=values.unknown_dataset,
    )
    try:
        text = describe_splits(
            values.dataset, values.protocol, options, tuple(values.known_classes)
        )
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(text + "\n")


def _define_flags() -> None:
    """Defines the flags of this command, named as those of a run."""
    flags.DEFINE_enum("dataset", "digits", list(SOURCES), "The dataset.")
    flags.DEFINE_enum("protocol", "paper", all_protocols(), "Which published lists.")
    flags.DEFINE_list("known_classes", [], "Known classes; all others are unknown.")
    flags.DEFINE_string("data_dir", "", "Folder of prepared datasets, or of images.")
    flags.DEFINE_string("cache_dir", "", "Folder for decoded images.")
    flags.DEFINE_integer(
        "image_size", 0, "Side of the images; 0: the dataset's own.", 0, 1024
    )
    flags.DEFINE_integer("max_unreadable", 0, "Unreadable files to put up with.", 0)
    flags.DEFINE_list("held_out_classes", [], "Classes of a folder held out.")
    flags.DEFINE_string("unknown_dataset", "", "Dataset of imagenet_lt's unknowns.")


if __name__ == "__main__":
    _define_flags()
    app.run(_main)
