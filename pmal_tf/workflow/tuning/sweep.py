"""A sweep: what it varies, which points it visits, and the run folders of these.

`--vary=epsilon=0.3,0.7,0.9` lists values, `--vary=epsilon=0.3..0.9` gives a range.
In `<workdir>/<experiment>-<hash>/`:

| | |
|---|---|
| `sweep.json` | what is swept |
| `tuner/` | KerasTuner's own records |
| `<name-value>__.../trial_<t>/` | a run folder per point and trial |
| `table.md`, `costs.json`, `<setting>.png`, `.svg` | results |
| `best.flags`, `best_objective.flags` | the best point, to be run again |
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmal_tf.methods.registry import all_methods
from pmal_tf.results.collect.paper import PAPER_TABLES
from pmal_tf.runtime.environment import library_versions
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import checksum
from pmal_tf.runtime.settings import check_setting, kind_of, settings_in
from pmal_tf.workflow.config import EXPORT, GROUPS, Config
from pmal_tf.workflow.flags import parse_item

if TYPE_CHECKING:
    from pmal_tf.methods.trial import Trial

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
# No plus sign: TensorBoard's projector does not find a run with one in its name.
_SEPARATOR = "__"


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
        return kind_of(_variable_settings()[self.name])


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


def _variable_settings() -> dict[str, dataclasses.Field]:
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
    field = _variable_settings().get(name.strip())
    if field is None:
        raise PmalError(
            "`vary` must begin with the name of a setting that training depends on. "
            f"Received: {text!r}. There are: {', '.join(sorted(_variable_settings()))}."
        )
    is_range = _RANGE in given
    if is_range and kind_of(field) is str:
        raise PmalError(
            f"`vary` takes ranges of numbers; list the values of {field.name}. "
            f"Received: {text!r}"
        )
    items = given.split(_RANGE, 1) if is_range else filter(str.strip, given.split(","))
    expected = f"`vary` must give {field.name} values"
    values = tuple(parse_item(field, item, expected) for item in items)
    for value in values:
        check_setting(field, value)
    if is_range:
        low, high = values
        if not low < high:
            raise PmalError(
                f"A range must go from its low to its high end. Received: {text!r}"
            )
        return Parameter(field.name, low=low, high=high)
    if not values or len(set(values)) != len(values):
        raise PmalError(
            f"`vary` must list values of {field.name}, each once, or a range LOW.."
            f"HIGH. Received: {text!r}"
        )
    return Parameter(field.name, values)


@dataclass(frozen=True)
class Sweep:
    """What is swept, and where it is kept.

    Attributes:
        config: The settings around which; every point runs all its trials.
        space: What is varied.
        tuner: Which points are visited, one of `TUNERS`.
        rule: The score whose AUROC is the objective, as files call it.
        max_points: Points of a random or Bayesian sweep.

    Raises:
        PmalError: If such a sweep cannot visit the space.
    """

    config: Config
    space: tuple[Parameter, ...]
    tuner: str = "axes"
    rule: str = "dr"
    max_points: int = 20

    def __post_init__(self) -> None:
        ranges = [parameter for parameter in self.space if not parameter.values]
        if self.tuner in LISTED and ranges:
            raise PmalError(
                f"--tuner={self.tuner} visits listed values. Received: {ranges[0]}. "
                "List the values, or use --tuner=random or bayesian."
            )
        if self.tuner == "hyperband" and any(p.name == "epochs" for p in self.space):
            raise PmalError(
                "--tuner=hyperband chooses the epochs itself. Received: --vary=epochs"
            )

    def listed_points(self) -> list[dict[str, Any]]:
        """Returns the values of each point of a grid, or of a sweep along axes.

        These differ in one setting from `config`, as Table 5's do.
        """
        names = [parameter.name for parameter in self.space]
        if self.tuner == "grid":
            values = itertools.product(*(parameter.values for parameter in self.space))
            return [dict(zip(names, point, strict=True)) for point in values]
        center = {name: getattr(self.config, name) for name in names}
        points = [{**center, p.name: value} for p in self.space for value in p.values]
        return [point for n, point in enumerate(points) if point not in points[:n]]

    @property
    def identity(self) -> dict[str, Any]:
        """All that the sweep depends on; another has another folder."""
        config, start = self.config, Path(self.config.init_weights)
        settings = config.changed(tuning_held_out=True).result_settings()
        if self.tuner != "axes":
            # Only where all else is varied around them do the settings matter.
            for parameter in self.space:
                settings.pop(parameter.name, None)
        own = config.dataset == "folder"
        return {
            "space": [str(parameter) for parameter in self.space],
            "tuner": self.tuner,
            "rule": self.rule,
            "max_points": self.max_points,
            "trials": list(config.trials),
            "settings": settings,
            # What the settings do not tell of what is learnt and started from.
            "data": {
                "folder": str(Path(config.data_dir).resolve()) if own else "",
                "state": self._trial.images.source.state(),
                "init_weights": checksum(start) if start.is_file() else "",
            },
            "versions": library_versions(),
        }

    @property
    def _trial(self) -> Trial:
        """The first trial."""
        from pmal_tf.workflow.experiment import open_trial

        return open_trial(self.config, self.config.trials[0])

    @cached_property
    def _stages(self) -> tuple[str, ...]:
        """The stages of a point: nothing is exported."""
        from pmal_tf.workflow.experiment import plan

        kinds = dict.fromkeys(s.kind for s in plan(self.config, self._trial))
        return tuple(kind for kind in kinds if kind != EXPORT)

    @property
    def folder(self) -> Path:
        """`<workdir>/<experiment>-<hash>`."""
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return Path(self.config.workdir) / f"{self.config.experiment}-{digest}"

    def config_of(self, values: Mapping[str, Any], epochs: int | None = None) -> Config:
        """Returns the settings of a point; `epochs` where the tuner chooses them."""
        shown = {**values, **({"epochs": epochs} if epochs else {})}
        return self.config.changed(
            **shown,
            experiment=_SEPARATOR.join(f"{n}-{value}" for n, value in shown.items()),
            workdir=str(self.folder),
            # Whatever other runs have made is taken too.
            store_dir=str(self.config.store_folder),
            stages=self._stages,
            compare=(),
            tuning_held_out=True,
            overwrite=False,
        )
