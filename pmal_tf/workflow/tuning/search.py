"""Running a sweep with KerasTuner: on from where it stood, alone or among workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import keras_tuner
from absl import logging
from keras_tuner import errors
from keras_tuner.engine import base_tuner
from keras_tuner.engine import trial as trials

from pmal_tf.runtime.errors import PmalError, TrainingDivergedError, first_line
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.experiment import run_experiment
from pmal_tf.workflow.tuning.results import Point, trial_results, write_results
from pmal_tf.workflow.tuning.space import (
    LISTED,
    Parameter,
    check_tuner,
    points_of_grid,
    points_on_axes,
)
from pmal_tf.workflow.tuning.sweep import Sweep

_PROJECT = "tuner"
_CHIEF, _WORKER_ID = "chief", "KERASTUNER_TUNER_ID"
_OBJECTIVE = "held_out_auroc"
# KerasTuner's own entries among a trial's values begin so.
_INTERNAL = "tuner/"
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
        "objective": keras_tuner.Objective(_OBJECTIVE, "max"),
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


class PointTuner(base_tuner.BaseTuner):
    """Runs every point of a sweep that the oracle names as an experiment of its own."""

    def __init__(self, sweep: Sweep, oracle: keras_tuner.Oracle) -> None:
        self.sweep = sweep
        try:
            # It tells on standard output that it goes on from a folder; so do we.
            with redirect_stdout(sys.stderr):
                super().__init__(
                    oracle, directory=str(sweep.folder), project_name=_PROJECT
                )
        except (ValueError, KeyError, RuntimeError) as error:
            raise PmalError(
                "KerasTuner's records of a sweep must stand as they were written. "
                f"Received: {sweep.folder / _PROJECT}, damaged: {first_line(error)}. "
                "Move that folder away; points that are finished are not run again."
            ) from error
        _retry_lost_points(oracle)
        # Before the first point is done there would be nothing to go on from.
        self.save()

    def run_trial(self, trial: trials.Trial, *args: Any, **kwargs: Any) -> Any:
        """Runs one point, and returns the objective by its name.

        Raises:
            keras_tuner.errors.FailedTrialError: If its training diverged.
            keras_tuner.errors.FatalError: If something is wrong with all points.
        """
        values, epochs = _values_of(self.sweep, trial)
        config = self.sweep.config_of(values, epochs)
        logging.info("Point %s: %s", trial.trial_id, config.experiment)
        try:
            run_experiment(config)
        except TrainingDivergedError as error:
            raise errors.FailedTrialError(str(error)) from error
        except Exception as error:
            # KerasTuner would take any other for a bad point, and go on.
            raise errors.FatalError(str(error)) from error
        found = trial_results(config, self.sweep.rule)
        return {_OBJECTIVE: Point(values, config, found).mean}


def _retry_lost_points(oracle: keras_tuner.Oracle) -> None:
    """Lets points run that were cut short before the oracle had noted them.

    KerasTuner writes a point's own file first; killed between the two, it would take
    the point for one that somebody else is at.
    """
    for name, trial in sorted(oracle.trials.items()):
        running = trial.status == trials.TrialStatus.RUNNING
        if running and name not in oracle.start_order:
            oracle.start_order.append(name)
            oracle._retry_queue.append(name)


def run_sweep(sweep: Sweep) -> str:
    """Runs what is left of a sweep, and writes its results.

    Returns:
        Its table; of a worker whose chief is elsewhere, empty.

    Raises:
        PmalError: If something the user can mend is wrong.
        Interrupted: If the process was asked to leave.
    """
    check_tuner(sweep.tuner, sweep.space)
    sweep.open_folder()
    oracle = build_oracle(sweep)
    tuner = PointTuner(sweep, oracle)
    try:
        tuner.search(verbose=0)
    except errors.FatalError as error:
        raise (error.__cause__ or error) from None
    except RuntimeError as error:
        raise PmalError(
            "A sweep must be able to train its points. Received: several in a row that "
            f"could not be trained, the last one: {error}. See "
            f"{sweep.folder / _PROJECT}; lower --learning_rate, or vary less."
        ) from error
    if _CHIEF not in os.environ.get(_WORKER_ID, _CHIEF):
        return ""
    return write_results(sweep, _points(sweep, oracle))


def _points(sweep: Sweep, oracle: keras_tuner.Oracle) -> list[Point]:
    """Returns the points in the order they were begun, each once."""
    points: dict[str, Point] = {}
    for name in oracle.start_order:
        values, epochs = _values_of(sweep, oracle.trials[name])
        config = sweep.config_of(values, epochs)
        done = oracle.trials[name].status == trials.TrialStatus.COMPLETED
        results = trial_results(config, sweep.rule) if done else []
        points.setdefault(config.experiment, Point(values, config, results))
    return list(points.values())


def _values_of(sweep: Sweep, trial: trials.Trial) -> tuple[dict[str, Any], int | None]:
    """Returns a point's values, and its epochs where the tuner chose them."""
    values = trial.hyperparameters.values
    ours: dict[str, Any] = {}
    for parameter in sweep.space:
        # Some oracles give NumPy's numbers, and go past the end of a range in the last
        # digit, perhaps out of what the setting may be.
        value = parameter.kind(values[parameter.name])
        if not parameter.values:
            value = min(max(value, parameter.low), parameter.high)
        ours[parameter.name] = value
    return ours, values.get(f"{_INTERNAL}epochs")
