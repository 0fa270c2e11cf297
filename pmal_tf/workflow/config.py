"""All settings of a run: composed of those that stand beside their owners.

`Config(dataset="mnist", epochs=5)` takes any setting by its name, and gives it to the
group that it belongs to; `config.recipe` is a group, `config.epochs` a setting.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.data.settings import DataSettings
from pmal_tf.data.sources import get_dataset
from pmal_tf.methods import registry
from pmal_tf.methods.method import Method
from pmal_tf.results.scores.registry import get_score, get_scores
from pmal_tf.results.scores.score import Score
from pmal_tf.results.settings import EvaluationSettings
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import (
    DeviceSettings,
    Interval,
    check_settings,
    read_settings,
    setting,
    settings_in,
)
from pmal_tf.serving.settings import ServingSettings
from pmal_tf.training.recipe import Recipe

EVALUATE, EXPORT = "evaluate", "export"
# Stands for what the method has judged beside it.
AUTO = "auto"


@dataclass(frozen=True)
class RunSettings:
    """Run."""

    experiment: str = setting(
        "",
        "Name of the run folder; by default the flagfiles' stems joined by +, or the "
        "dataset.",
        result=False,
        common=True,
    )
    method: str = setting(
        registry.DEFAULT, "Method to train: a file of pmal_tf/methods.", common=True
    )
    compare: tuple[str, ...] = setting(
        (AUTO,),
        "Methods that are judged beside it; auto: what the method names.",
        common=True,
    )
    trials: tuple[int, ...] = setting(
        (0,),
        "Trials to run, e.g. 0,1,2.",
        allowed=Interval(low=0),
        result=False,
        common=True,
    )
    stages: tuple[str, ...] = setting(
        (),
        "Stages to run, those of the methods, evaluate and export; by default all. "
        "Finished ones are skipped.",
        result=False,
        common=True,
    )
    overwrite: bool = setting(
        False,
        "Make the stages named by --stages anew, whatever there is.",
        result=False,
        common=True,
    )
    seed: int = setting(
        0, "Seed of everything random.", allowed=Interval(low=0), common=True
    )
    workdir: str = setting("runs", "Folder of run folders.", result=False, common=True)
    store_dir: str = setting(
        "",
        "Folder of finished stages, which runs share; by default <workdir>/store.",
        result=False,
    )

    def __post_init__(self) -> None:
        check_settings(self)


# By the attribute of `Config` that holds it.
GROUPS: dict[str, type] = {
    "run": RunSettings,
    "data": DataSettings,
    "network": NetworkSettings,
    "recipe": Recipe,
    "evaluation": EvaluationSettings,
    "serving": ServingSettings,
    "devices": DeviceSettings,
}
_GROUP_OF = {f.name: name for name, group in GROUPS.items() for f in settings_in(group)}


def _filled(group: type, values: dict[str, Any]) -> Any:
    """Returns a group of settings with those values that are its own.

    Refuses a list that names a thing twice, or nothing where it must.
    """
    given = [field for field in settings_in(group) if field.name in values]
    made = group(**{field.name: values[field.name] for field in given})
    for field in given:
        items = values[field.name]
        if not isinstance(items, tuple):
            continue
        needed = field.default and field.name != "compare"
        if len(set(items)) != len(items) or (needed and not items):
            least = "at least one value" if needed else "values"
            raise PmalError(
                f"`{field.name}` must list {least}, each once. "
                f"Received: {field.name}={list(items)}"
            )
    return made


class Config:
    """The settings of an experiment by name; defaults are the paper's values.

    Attributes:
        methods: Settings of each method in use by its name, the run's own first.
        compared: The methods that are judged beside it.

    Raises:
        PmalError: If a setting does not exist, belongs to a method that is not in use,
            or may not have its value.
    """

    run: RunSettings
    data: DataSettings
    network: NetworkSettings
    recipe: Recipe
    evaluation: EvaluationSettings
    serving: ServingSettings
    devices: DeviceSettings
    methods: dict[str, Any]
    compared: tuple[Method, ...]

    def __init__(self, **values: Any) -> None:
        made = self.__dict__
        made["_given"] = dict(values)
        owners = registry.owners()
        strange = [n for n in values if n not in _GROUP_OF and n not in owners]
        if strange:
            raise PmalError(f"There is no such setting. Received: {', '.join(strange)}")
        for name, group in GROUPS.items():
            made[name] = _filled(group, values)
        get_dataset(self.data.dataset)
        if self.run.method in self.run.compare:
            raise PmalError(
                "`compare` must list other methods than the run's own. Received: "
                f"compare={','.join(self.run.compare)} with method={self.run.method}"
            )
        own = self.own_method
        compare = own.beside if self.run.compare == (AUTO,) else self.run.compare
        made["compared"] = tuple(registry.get_method(name) for name in compare)
        made["methods"] = {
            method.name: _filled(method.Settings, values)
            for method in (own, *self.compared)
        }
        for name in values:
            owner = owners[name][0] if name in owners else own.name
            if owner not in self.methods:
                raise PmalError(
                    f"`{name}` is a setting of the method {owner}. Received: "
                    f"{name}={values[name]} with method={own.name}. Leave it out, or "
                    f"add --method={owner} or --compare={owner}."
                )
        experiment = self.run.experiment or self.data.dataset
        if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", experiment):
            raise PmalError(
                "`experiment` must be a plain folder name of letters, digits and the "
                f"signs ._+- . Received: experiment={experiment!r}"
            )
        made["run"] = dataclasses.replace(self.run, experiment=experiment)
        rule = self.serving.rule or own.scores[0]
        made["serving"] = dataclasses.replace(self.serving, rule=rule)

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}")

    def __getattr__(self, name: str) -> Any:
        """Returns a setting by its name."""
        if name in _GROUP_OF:
            return getattr(getattr(self, _GROUP_OF[name]), name)
        for settings in self.__dict__.get("methods", {}).values():
            if hasattr(settings, name):
                return getattr(settings, name)
        raise AttributeError(f"There is no setting {name!r} in use")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.values() == other.values()

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{n}={v!r}' for n, v in self._given.items())})"

    def changed(self, **values: Any) -> Config:
        """Returns these settings but for some, without those of methods not in use."""
        given, owners = {**self._given, **values}, registry.owners()
        chosen = {n: given[n] for n in ("method", "compare") if n in given}
        in_use = Config(**chosen).methods
        return Config(
            **{
                name: value
                for name, value in given.items()
                if name in values or name not in owners or owners[name][0] in in_use
            }
        )

    def values(self) -> dict[str, Any]:
        """Returns every setting in use by its name."""
        groups = [*(getattr(self, name) for name in GROUPS), *self.methods.values()]
        return {
            field.name: getattr(group, field.name)
            for group in groups
            for field in settings_in(group)
        }

    def result_settings(self) -> dict[str, Any]:
        """Returns all settings that scores and metrics depend on, as JSON has them.

        Those of methods that are judged beside the run's own are called
        `<method>.<setting>`.
        """
        found: dict[str, Any] = {}
        for name in ("run", "data", "network", "recipe", "evaluation"):
            found |= read_settings(getattr(self, name))
        for method, settings in self.methods.items():
            own = "" if method == self.run.method else f"{method}."
            found |= {f"{own}{n}": v for n, v in read_settings(settings).items()}
        judged = [score.name for score in self.scores]
        compared = [method.name for method in self.compared]
        return {**found, "scores": judged, "compare": compared}

    @property
    def own_method(self) -> Method:
        """The run's method."""
        return registry.get_method(self.run.method)

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores by which the run's method is judged, its own first."""
        own = self.own_method.scores
        return get_scores((*own, *self.evaluation.scores, self.serving.rule))

    @property
    def rule(self) -> str:
        """What files call the score by which the exported model rejects."""
        return get_score(self.serving.rule).field

    @property
    def run_folder(self) -> Path:
        """The experiment's folder."""
        return Path(self.run.workdir) / self.run.experiment

    @property
    def store_folder(self) -> Path:
        """Where finished stages are kept."""
        return Path(self.run.store_dir or Path(self.run.workdir) / "store")
