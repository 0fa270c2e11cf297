"""The published class lists of open set recognition, from `open_set_splits.json`."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

from pmal_tf.runtime.errors import PmalError

_REST = "rest"

# Known and unknown class names of one trial.
Sides = tuple[tuple[str, ...], tuple[str, ...]]


@functools.cache
def _content() -> dict[str, Any]:
    """Reads the file once."""
    file = resources.files("pmal_tf.data") / "open_set_splits.json"
    return json.loads(file.read_text())


def protocols_of(dataset: str) -> tuple[str, ...]:
    """Returns the protocols that a dataset has lists for, none for most folders."""
    return tuple(_content()["protocols"].get(dataset, ()))


def all_protocols() -> tuple[str, ...]:
    """Returns every protocol that some dataset has."""
    tables = _content()["protocols"].values()
    return tuple(dict.fromkeys(name for table in tables for name in table))


def published_trials(
    dataset: str, protocol: str, class_names: Sequence[str]
) -> list[Sides]:
    """Returns the known and unknown classes of every trial.

    Args:
        dataset: Name of the dataset.
        protocol: One of its protocols.
        class_names: All its classes.

    Raises:
        PmalError: If the protocol does not exist, or a list names a class that the
            dataset lacks, twice, or on both sides.
    """
    protocols = protocols_of(dataset)
    if protocol not in protocols:
        raise PmalError(
            f"`protocol` of {dataset} must be one of {', '.join(protocols)}. "
            f"Received: protocol={protocol!r}"
        )
    entry = _content()["protocols"][dataset][protocol]
    trials = _content()["lists"][entry["source"]][entry.get("dataset", dataset)]
    return [
        _sides(trial, dataset, class_names, swapped=entry.get("swapped", False))
        for trial in trials
    ]


def _sides(
    trial: dict[str, Any], dataset: str, class_names: Sequence[str], *, swapped: bool
) -> Sides:
    """Returns one trial's lists, checked, with `"rest"` spelt out."""
    known, unknown = trial["known"], trial["unknown"]
    if unknown == _REST:
        listed = set(known)
        unknown = [name for name in class_names if name not in listed]
    sides = (tuple(known), tuple(unknown))
    check_sides(*sides, dataset=dataset, class_names=class_names)
    return (sides[1], sides[0]) if swapped else sides


def check_sides(
    known: Sequence[str],
    unknown: Sequence[str],
    *,
    dataset: str,
    class_names: Sequence[str],
) -> None:
    """Checks that two lists name classes of a dataset, each at most once.

    Raises:
        PmalError: If they do not.
    """
    classes = set(class_names)
    listed = [*known, *unknown]
    strangers = [name for name in listed if name not in classes]
    if strangers:
        raise PmalError(
            f"A split of {dataset} may name only its classes "
            f"({_shortened(class_names)}). Received: {_shortened(strangers)}"
        )
    both = sorted(set(known) & set(unknown))
    if both:
        raise PmalError(
            f"A class cannot be known and unknown. Received: {_shortened(both)}"
        )
    repeated = sorted(name for name, times in Counter(listed).items() if times > 1)
    if repeated:
        raise PmalError(
            f"A split may name a class only once. Received: {_shortened(repeated)}"
        )


def _shortened(names: Sequence[str], most: int = 20) -> str:
    """Joins names, the first ones of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
