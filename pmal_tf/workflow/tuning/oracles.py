"""Which points of a space a sweep visits: KerasTuner's oracles, and one more."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras_tuner
from keras_tuner.engine import trial as trials

from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.tuning.space import Parameter, hyperparameters

OBJECTIVE = "held_out_auroc"
# KerasTuner's own entries among a trial's values begin so.
INTERNAL = "tuner/"
_LISTED = ("axes", "grid")
# A point that cannot be trained is passed over; more in a row mean something is wrong.
_MOST_FAILED = 3


class ListedOracle(keras_tuner.Oracle):
    """Visits points of a list, one after the other.

    KerasTuner 1.4.8 has an oracle of its own for grids, which does not remember its
    order: a search that was killed ends with a KeyError when it is to go on.

    Args:
        points: The values of each point.
        **kwargs: Passed to `keras_tuner.Oracle`.
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
    """Returns the points that differ in one setting from the settings of `config`.

    Table 5 varies its settings so.
    """
    center = {parameter.name: getattr(config, parameter.name) for parameter in space}
    points = []
    for parameter in space:
        for value in parameter.values:
            point = {**center, parameter.name: value}
            if point not in points:
                points.append(point)
    return points


def points_of_grid(space: Sequence[Parameter], config: Config) -> list[dict[str, Any]]:
    """Returns all combinations of the values; `config` has no part in them."""
    del config
    names = [parameter.name for parameter in space]
    values = itertools.product(*(parameter.values for parameter in space))
    return [dict(zip(names, combination, strict=True)) for combination in values]


def check_oracle(kind: str, space: Sequence[Parameter]) -> None:
    """Checks that a kind of sweep can visit a space.

    Raises:
        PmalError: If it cannot.
    """
    ranges = [parameter for parameter in space if not parameter.values]
    if kind in _LISTED and ranges:
        raise PmalError(
            f"--tuner={kind} visits listed values. Received: {ranges[0]}. List the "
            "values, or use --tuner=random or bayesian."
        )
    if kind == "hyperband" and any(p.name == "epochs" for p in space):
        raise PmalError(
            "--tuner=hyperband chooses the epochs itself. Received: --vary=epochs"
        )


def build_oracle(
    kind: str, space: Sequence[Parameter], config: Config, *, max_points: int, seed: int
) -> keras_tuner.Oracle:
    """Returns the oracle of a sweep.

    Args:
        kind: One of `TUNERS`.
        space: What is varied.
        config: The settings around which.
        max_points: Points of a random or Bayesian sweep.
        seed: Decides what is drawn.
    """
    common = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": hyperparameters(space, config),
        "seed": seed,
        "allow_new_entries": False,
        "max_consecutive_failed_trials": _MOST_FAILED,
    }
    if kind in _LISTED:
        points = (points_on_axes if kind == "axes" else points_of_grid)(space, config)
        return ListedOracle(points, max_trials=None, **common)
    if kind == "random":
        return keras_tuner.oracles.RandomSearchOracle(max_trials=max_points, **common)
    if kind == "bayesian":
        return keras_tuner.oracles.BayesianOptimizationOracle(
            max_trials=max_points, **common
        )
    return keras_tuner.oracles.HyperbandOracle(max_epochs=config.epochs, **common)
