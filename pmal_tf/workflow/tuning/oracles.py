"""Which points of a space a sweep visits: KerasTuner's oracles, and one more."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras_tuner
from keras_tuner.engine import trial as trials

from pmal_tf.workflow.config import Config
from pmal_tf.workflow.tuning.space import LISTED, Parameter
from pmal_tf.workflow.tuning.sweep import Sweep

OBJECTIVE = "held_out_auroc"
# KerasTuner's own entries among a trial's values begin so.
INTERNAL = "tuner/"
# A point that cannot be trained is passed over; more in a row mean something is wrong.
_MOST_FAILED = 3


class ListedOracle(keras_tuner.Oracle):
    """Visits `points`, the values of each, one after the other.

    KerasTuner 1.4.8 has an oracle of its own for grids, which does not remember its
    order: a search that was killed ends with a KeyError when it is to go on.
    """

    def __init__(self, points: Sequence[dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.points = list(points)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the next point, or says that there is none left."""
        position = int(trial_id)
        if position >= len(self.points):
            return {"status": trials.TrialStatus.STOPPED}
        return {"status": trials.TrialStatus.RUNNING, "values": self.points[position]}


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


def hyperparameters(
    space: Sequence[Parameter], config: Config
) -> keras_tuner.HyperParameters:
    """Returns a space as KerasTuner takes it; settings of `config` are its defaults."""
    hp = keras_tuner.HyperParameters()
    for parameter in space:
        name, default = parameter.name, getattr(config, parameter.name)
        if parameter.values:
            given = default if default in parameter.values else parameter.values[0]
            hp.Choice(name, list(parameter.values), default=given)
        else:
            ranged = hp.Int if parameter.kind is int else hp.Float
            ranged(name, parameter.low, parameter.high)
    return hp


def build_oracle(sweep: Sweep) -> keras_tuner.Oracle:
    """Returns what says which points a sweep visits."""
    config, space = sweep.config, sweep.space
    common = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": hyperparameters(space, config),
        "seed": config.seed,
        "allow_new_entries": False,
        "max_consecutive_failed_trials": _MOST_FAILED,
    }
    if sweep.tuner in LISTED:
        on_axes = sweep.tuner == "axes"
        points = points_on_axes(space, config) if on_axes else points_of_grid(space)
        return ListedOracle(points, max_trials=None, **common)
    if sweep.tuner == "hyperband":
        return keras_tuner.oracles.HyperbandOracle(max_epochs=config.epochs, **common)
    drawn = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    }
    return drawn[sweep.tuner](max_trials=sweep.max_points, **common)
