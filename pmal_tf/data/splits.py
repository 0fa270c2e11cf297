"""Which classes are known and which are unknown, by protocol and trial.

`python -m pmal_tf.data.splits --dataset=cifar10 --protocol=neal` prints the splits
with their image counts.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import app, flags, logging

from pmal_tf.data.class_lists import Sides, published_trials
from pmal_tf.data.hashing import hash_ids
from pmal_tf.data.images import LabelledImages, Source, proportional_share
from pmal_tf.data.settings import DataSettings, SourceOptions
from pmal_tf.data.sources import SOURCES, open_source
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import settings_in

# What a result made with `--known_classes` names as its protocol.
CUSTOM = "custom"
# Ends the name of a protocol whose known classes were split once more.
TUNING = "_tuning"
# Shares held out to tune on: of the known classes, and of the others' training images.
_CLASS_SHARE, _IMAGE_SHARE = 1 / 3, 0.2


@dataclass(frozen=True)
class OpenSetSplit:
    """Known and unknown classes of one trial.

    Attributes:
        protocol: Where the classes are from. `neal`: 6 known and 4 unknown, what Neal
            et al. 2018 and later work do. `paper`: what the text of the PMAL paper
            says, for digits 4 known and 6 unknown, the same lists with the two sides
            swapped. `arpl`: the lists of ARPL where they are something else. `custom`:
            the user's. `folder`: the user's images.
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
        """Openness of Scheirer et al. 2013, 1 - sqrt(2 K / (K + K + U)), in [0, 1).

        K classes are trained on and recognised, K + U are tested.
        """
        known = len(self.known)
        return 1.0 - math.sqrt(2 * known / (2 * known + len(self.unknown)))


def listed_trials(source: Source, protocol: str) -> list[Sides]:
    """Returns known and unknown classes of every trial; a `PmalError` without any."""
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

    Where there is one split only, every trial has it, and trials differ by seed. If the
    user chooses `known_classes`, all others of the trial's are unknown.

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
    """Orders two lists of class names by dataset label.

    Raises:
        PmalError: If a name is not a class of the dataset, or is named twice, or fewer
            than two classes are known.
    """
    times = Counter([*known, *unknown])
    if others := [name for name in times if name not in source.class_names]:
        raise PmalError(
            f"A split of {source.name} may name only its classes "
            f"({_shortened(source.class_names)}). Received: {_shortened(others)}"
        )
    if twice := sorted(name for name in times if times[name] > 1):
        raise PmalError(
            "A split may name a class only once, and as known or as unknown. "
            f"Received: {_shortened(twice)}"
        )
    if len(known) < 2:
        raise PmalError(
            "At least two classes must be known: a classifier of one has nothing to "
            f"tell apart. Received: known classes {list(known)} of {source.name}"
        )
    sides = [tuple(sorted(s, key=source.class_names.index)) for s in (known, unknown)]
    return OpenSetSplit(source.name, protocol, trial, *sides)


def _shortened(names: Sequence[str], most: int = 20) -> str:
    """Joins names, the first ones of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def apply_split(
    source: Source, split: OpenSetSplit, train: LabelledImages, test: LabelledImages
) -> tuple[LabelledImages, LabelledImages]:
    """Keeps the known classes for training and the classes of both sides for testing.

    Dataset labels become class indices, and -1 for unknown classes.

    Raises:
        PmalError: If a known class has no training images, or no test images are
            known, or none are unknown though classes are.
    """
    not_listed = -2
    index_of = {name: index for index, name in enumerate(split.known)}
    index_of |= dict.fromkeys(split.unknown, -1)
    class_index = np.array(
        [index_of.get(name, not_listed) for name in source.class_names], np.int32
    )

    def relabelled(images: LabelledImages, least: int) -> LabelledImages:
        label = class_index[images.label]
        return dataclasses.replace(images, label=label).take(label >= least)

    known_train, all_test = relabelled(train, 0), relabelled(test, -1)
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
            ", ".join(missing),
            "this class" if len(missing) == 1 else "these",
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


def hold_out_classes(split: OpenSetSplit, seed: int) -> OpenSetSplit:
    """Splits the known classes once more: a third, at least one, plays the unknown.

    Unknown classes of a test must not be looked at before the test. So, to choose
    hyper-parameters, some known classes play the unknown, and are withheld from every
    training stage; and no test image is looked at, not of a known class either.

    Raises:
        PmalError: If fewer than two known classes would be left.
    """
    count = len(split.known)
    if count < 3:
        raise PmalError(
            "Tuning holds known classes out, so it needs at least 3: one to hold out "
            f"and two to tell apart. Received: {', '.join(split.known)}"
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
        each known class, and all of the classes that are held out. Labels are those of
        `apply_split`.
    """
    rng = np.random.default_rng(seed)
    rank = hash_ids(train.example_id, "tuning images", seed)
    withheld = proportional_share(train.label, rank, _IMAGE_SHARE, start=rng.random())
    held_out = [source.class_names.index(name) for name in split.unknown]
    is_validation = withheld | np.isin(train.label, held_out)
    return apply_split(
        source, split, train.take(~is_validation), train.take(is_validation)
    )


def trials_of_equal_classes(
    known_by_trial: Iterable[tuple[int, Sequence[str]]],
) -> list[list[int]]:
    """Returns the groups of trials with the same known classes; such differ by seed."""
    groups: dict[frozenset[str], list[int]] = {}
    for trial, known in known_by_trial:
        groups.setdefault(frozenset(known), []).append(trial)
    return [group for group in groups.values() if len(group) > 1]


def describe_splits(settings: DataSettings) -> str:
    """Returns a text with the classes, and if prepared the images, of every trial."""
    source, chosen = open_source(settings.dataset, settings), settings.known_classes
    trials = listed_trials(source, settings.protocol) if not chosen else [chosen]
    splits = [
        open_set_split(source, settings.protocol, trial, chosen)
        for trial in range(len(trials))
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
            f"{source.name} {split.protocol} trial {split.trial}: "
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


# The settings of a run that are flags of this command, too.
_FIELDS = [
    field
    for field in settings_in(DataSettings)
    if field in settings_in(SourceOptions)
    or field.name in ("dataset", "protocol", "known_classes")
]


def _main(argv: list[str]) -> None:
    """Prints the splits that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    plain_messages()
    values: dict[str, Any] = {}
    for field in _FIELDS:
        value = flags.FLAGS[field.name].value
        values[field.name] = tuple(value) if isinstance(value, list) else value
    try:
        text = describe_splits(DataSettings(**values))
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    define: dict[type, Callable] = {
        int: flags.DEFINE_integer,
        str: flags.DEFINE_string,
        tuple: flags.DEFINE_list,
    }
    texts = {"dataset": f"One of {', '.join(SOURCES)}."}
    for one in _FIELDS:
        text = texts.get(one.name, one.metadata["help"])
        define[type(one.default)](one.name, one.default, text)
    app.run(_main)
