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
from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.settings import DataSettings, SourceOptions
from pmal_tf.data.sources import SOURCES, open_source
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import settings_in

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
    """Checks two lists of class names and orders them by dataset label.

    Raises:
        PmalError: If a name is not a class of the dataset, or is named twice, or fewer
            than two classes are known.
    """
    times = Counter([*known, *unknown])
    classes = _shortened(source.class_names)
    wrong = {
        f"A split of {source.name} may name only its classes ({classes}).": [
            name for name in times if name not in source.class_names
        ],
        "A class cannot be known and unknown.": sorted({*known} & {*unknown}),
        "A split may name a class only once.": [n for n in times if times[n] > 1],
    }
    for expected, names in wrong.items():
        if names:
            raise PmalError(f"{expected} Received: {_shortened(names)}")
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

    Returns:
        Training images of the known classes, and all test images; dataset labels have
        become class indices, -1 for unknown classes.

    Raises:
        PmalError: If a known class has no training images, or no test images are
            known, or none are unknown though classes are.
    """
    not_listed = -2
    class_index = np.full(len(source.class_names), not_listed, np.int32)
    for name in split.unknown:
        class_index[source.class_names.index(name)] = -1
    for index, name in enumerate(split.known):
        class_index[source.class_names.index(name)] = index

    def relabelled(images: LabelledImages, least: int) -> LabelledImages:
        label = class_index[images.label]
        chosen = dataclasses.replace(images, label=label)
        return chosen.take(label >= least)

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


def trials_of_equal_classes(
    known_by_trial: Iterable[tuple[int, Sequence[str]]],
) -> list[list[int]]:
    """Groups trials that have the same known classes; such differ by seed only.

    Returns:
        The groups of at least two trials.
    """
    groups: dict[frozenset[str], list[int]] = {}
    for trial, known in known_by_trial:
        groups.setdefault(frozenset(known), []).append(trial)
    return [group for group in groups.values() if len(group) > 1]


def describe_splits(settings: DataSettings) -> str:
    """Returns a text with the classes and image counts of every trial.

    Where the dataset is not prepared it has no counts, but says so.
    """
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


def _fields() -> list[dataclasses.Field]:
    """Returns the settings of a run that are flags of this command, too."""
    asked = ("dataset", "protocol", "known_classes")
    own = [field for field in settings_in(DataSettings) if field.name in asked]
    return [*own, *settings_in(SourceOptions)]


def _main(argv: list[str]) -> None:
    """Prints the splits that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    plain_messages()
    values: dict[str, Any] = {}
    for field in _fields():
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
    for one in _fields():
        text = texts.get(one.name, one.metadata["help"])
        define[type(one.default)](one.name, one.default, text)
    app.run(_main)
