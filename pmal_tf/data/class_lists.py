"""The published class lists of open set recognition, from `open_set_splits.json`."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from pmal_tf.runtime.errors import PmalError

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
    """Returns the known and unknown classes of every trial of a dataset's protocol.

    Raises:
        PmalError: If the protocol does not exist.
    """
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
            listed = set(known)
            unknown = [name for name in class_names if name not in listed]
        swapped = entry.get("swapped", False)
        trials.append((tuple(unknown), known) if swapped else (known, tuple(unknown)))
    return trials
