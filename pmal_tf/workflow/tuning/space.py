"""Which settings a sweep varies, over what, and which points of that it visits.

`--vary=epsilon=0.3,0.7,0.9` lists values, `--vary=epsilon=0.3..0.9` gives a range.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pmal_tf.methods.registry import all_methods
from pmal_tf.results.collect.paper import PAPER_TABLES
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import check_setting, kind_of, settings_in
from pmal_tf.workflow.config import GROUPS, Config

LISTED = ("axes", "grid")
# Which points a sweep visits.
TUNERS = (*LISTED, "random", "bayesian", "hyperband")
# Table 5 of the paper, and lambda_p of the text below it.
TABLE_5 = tuple(
    f"{table.setting}={','.join(str(c.overrides[table.setting]) for c in table.cells)}"
    for table in PAPER_TABLES
    if table.setting
)
_RANGE = ".."
# Settings that say what is learnt, not how.
_NOT_VARIED = (
    *("dataset", "protocol", "tuning_held_out", "mining_repeats"),
    *("calibration_fraction", "unknown_dataset", "image_size", "init_weights"),
)


@dataclass(frozen=True)
class Parameter:
    """A setting that a sweep varies: over some values, or from `low` to `high`."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        if self.values:
            return f"{self.name}={','.join(map(str, self.values))}"
        return f"{self.name}={self.low}{_RANGE}{self.high}"

    @property
    def kind(self) -> type:
        """The type of its values."""
        return kind_of(variable_settings()[self.name])


def parse_space(texts: Sequence[str]) -> tuple[Parameter, ...]:
    """Reads a space from texts, NAME=VALUE,VALUE,... or NAME=LOW..HIGH.

    Raises:
        PmalError: If a setting cannot be varied, is varied twice, or may not take a
            value.
    """
    space = tuple(_parse(text) for text in texts)
    names = [parameter.name for parameter in space]
    if not names or len(set(names)) != len(names):
        raise PmalError(
            "`vary` must name at least one setting, each once. "
            f"Received: {', '.join(names) or 'none'}"
        )
    return space


def variable_settings() -> dict[str, dataclasses.Field]:
    """Returns the settings that may be varied, by name."""
    groups = [GROUPS[name] for name in ("data", "network", "recipe")]
    groups += [method.Settings for method in all_methods().values()]
    return {
        field.name: field
        for group in groups
        for field in settings_in(group)
        if field.metadata["result"]
        and not isinstance(field.default, tuple | bool)
        and field.name not in _NOT_VARIED
    }


def _parse(text: str) -> Parameter:
    """Reads one text; see `parse_space`."""
    name, _, given = text.partition("=")
    field = variable_settings().get(name.strip())
    if field is None:
        raise PmalError(
            "`vary` must begin with the name of a setting that training depends on. "
            f"Received: {text!r}. There are: {', '.join(sorted(variable_settings()))}."
        )
    low, is_range, high = given.partition(_RANGE)
    if is_range and kind_of(field) is str:
        raise PmalError(
            f"`vary` takes ranges of numbers; list the values of {field.name}. "
            f"Received: {text!r}"
        )
    if is_range:
        ends = _convert(field, low), _convert(field, high)
        if not ends[0] < ends[1]:
            raise PmalError(
                f"A range must go from its low to its high end. Received: {text!r}"
            )
        return Parameter(field.name, low=ends[0], high=ends[1])
    items = [item.strip() for item in given.split(",") if item.strip()]
    values = tuple(_convert(field, item) for item in items)
    if not values or len(set(values)) != len(values):
        raise PmalError(
            f"`vary` must list values of {field.name}, each once, or a range LOW.."
            f"HIGH. Received: {text!r}"
        )
    return Parameter(field.name, values)


def _convert(field: dataclasses.Field, item: str) -> Any:
    """Converts a value to a setting's type, and checks it."""
    kind = kind_of(field)
    try:
        value = kind(item.strip())
    except ValueError as error:
        raise PmalError(
            f"`vary` must give {field.name} values of type {kind.__name__}. "
            f"Received: {item.strip()!r}"
        ) from error
    check_setting(field, value)
    return value


def points_on_axes(space: Sequence[Parameter], config: Config) -> list[dict[str, Any]]:
    """Returns the points that differ in one setting from `config`, as Table 5 has."""
    center = {parameter.name: getattr(config, parameter.name) for parameter in space}
    points = []
    for parameter in space:
        for value in parameter.values:
            point = {**center, parameter.name: value}
            if point not in points:
                points.append(point)
    return points


def points_of_grid(space: Sequence[Parameter]) -> list[dict[str, Any]]:
    """Returns all combinations of the values."""
    names = [parameter.name for parameter in space]
    values = itertools.product(*(parameter.values for parameter in space))
    return [dict(zip(names, combination, strict=True)) for combination in values]


def check_tuner(tuner: str, space: Sequence[Parameter]) -> None:
    """Checks that a kind of sweep can visit a space.

    Raises:
        PmalError: If it cannot.
    """
    ranges = [parameter for parameter in space if not parameter.values]
    if tuner in LISTED and ranges:
        raise PmalError(
            f"--tuner={tuner} visits listed values. Received: {ranges[0]}. List the "
            "values, or use --tuner=random or bayesian."
        )
    if tuner == "hyperband" and any(p.name == "epochs" for p in space):
        raise PmalError(
            "--tuner=hyperband chooses the epochs itself. Received: --vary=epochs"
        )
