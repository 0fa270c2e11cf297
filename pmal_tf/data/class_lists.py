"""The names of classes, and the published class lists of open set recognition."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from pmal_tf.runtime.errors import PmalError

# Known and unknown class names of one trial.
Sides = tuple[tuple[str, ...], tuple[str, ...]]


def _read(file: str) -> str:
    return (resources.files("pmal_tf.data") / file).read_text(encoding="utf-8")


def class_names(file: str) -> tuple[str, ...]:
    """Returns the class names in a text file beside this module."""
    return tuple(_read(file).split())


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(_read("open_set_splits.json"))


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
    """Returns known and unknown classes of every trial; a `PmalError` without any."""
    protocols = protocols_of(dataset)
    if protocol not in protocols:
        raise PmalError(
            f"`protocol` of {dataset} must be one of {', '.join(protocols)}. "
            f"Received: protocol={protocol!r}"
        )
    entry = _content()["protocols"][dataset][protocol]
    trials: list[Sides] = []
    for trial in _content()["lists"][entry["source"]][entry.get("dataset", dataset)]:
        known, unknown = tuple(trial["known"]), trial["unknown"]
        if unknown == "rest":
            unknown = [name for name in class_names if name not in known]
        sides = (known, tuple(unknown))
        trials.append(sides[::-1] if entry.get("swapped") else sides)
    return trials
