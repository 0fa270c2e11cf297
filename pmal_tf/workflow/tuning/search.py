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
from pmal_tf.runtime.files import write_json
from pmal_tf.workflow.experiment import run_experiment
from pmal_tf.workflow.tuning.results import Point, write_results
from pmal_tf.workflow.tuning.sweep import LISTED, Sweep

_PROJECT = "tuner"
_CHIEF, _WORKER_ID = "chief", "KERASTUNER_TUNER_ID"
_OBJECTIVE = "held_out_auroc"
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


def hyperparameters(sweep: Sweep) -> keras_tuner.HyperParameters:
    """Returns the space as KerasTuner takes it, around the settings of the sweep."""
    hp = keras_tuner.HyperParameters()
    for parameter in sweep.space:
        name, default = parameter.name, getattr(sweep.config, parameter.name)
        if parameter.values:
            given = default if default in parameter.values else parameter.values[0]
            hp.Choice(name, list(parameter.values), default=given)
        else:
            ranged = hp.Int if parameter.kind is int else hp.Float
            ranged(name, parameter.low, parameter.high)
    return hp


def build_oracle(sweep: Sweep) -> keras_tuner.Oracle:
    """Returns what says which points a sweep visits."""
    common = {
        "objective": keras_tuner.Objective(_OBJECTIVE, "max"),
        "hyperparameters": hyperparameters(sweep),
        "seed": sweep.config.seed,
        "allow_new_entries": False,
        "max_consecutive_failed_trials": _MOST_FAILED,
    }
    if sweep.tuner in LISTED:
        return ListedOracle(sweep.listed_points(), max_trials=None, **common)
    if sweep.tuner == "hyperband":
        epochs = sweep.config.epochs
        return keras_tuner.oracles.HyperbandOracle(max_epochs=epochs, **common)
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
            # It says on standard output, which is ours, that it goes on from a folder.
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
        point = _point_of(self.sweep, trial)
        config = point.config
        logging.info("Point %s: %s", trial.trial_id, config.experiment)
        try:
            run_experiment(config)
        except TrainingDivergedError as error:
            raise errors.FailedTrialError(str(error)) from error
        except Exception as error:
            # KerasTuner would take any other for a bad point, and go on.
            raise errors.FatalError(str(error)) from error
        return {_OBJECTIVE: point.read(self.sweep.rule).mean}


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
    write_json(sweep.folder / "sweep.json", sweep.identity)
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
    # In the order they were begun, each once.
    points: dict[str, Point] = {}
    for name in oracle.start_order:
        point = _point_of(sweep, oracle.trials[name])
        if oracle.trials[name].status == trials.TrialStatus.COMPLETED:
            point = point.read(sweep.rule)
        points.setdefault(point.config.experiment, point)
    return write_results(sweep, list(points.values()))


def _point_of(sweep: Sweep, trial: trials.Trial) -> Point:
    """Returns the point of KerasTuner's trial, with no results yet."""
    given = trial.hyperparameters.values
    values: dict[str, Any] = {}
    for parameter in sweep.space:
        # Some oracles give NumPy's numbers, and go past the end of a range in the last
        # digit, perhaps out of what the setting may be.
        value = parameter.kind(given[parameter.name])
        if not parameter.values:
            value = min(max(value, parameter.low), parameter.high)
        values[parameter.name] = value
    # Hyperband chooses the epochs, as an entry of KerasTuner's own.
    return Point(values, sweep.config_of(values, given.get("tuner/epochs")))
