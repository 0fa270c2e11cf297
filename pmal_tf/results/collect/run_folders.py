"""The finished trials under a folder of runs, and a refusal to mix unlike ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

from pmal_tf.data.class_lists import all_protocols
from pmal_tf.data.splits import TUNING
from pmal_tf.results.collect.comparison import Comparison, compare_measured
from pmal_tf.results.collect.summary import REPEATED, metric_of, summarise
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import MARKER, differences, read_json

# Stages that runs share, and KerasTuner's records: no runs, whatever they hold.
_NO_RUNS = {"store", "shared", "tuner"}
_EVALUATED = f"evaluate/{MARKER}"
_NEEDED = ("result.json", "config.json", "environment.json", _EVALUATED)
# What `result.json` must have.
_ENTRIES = (
    *(*REPEATED, "trial", "known", "unknown", "models"),
    *("baseline", "titles", "files"),
)
# Of these `config.json` has what was asked for, and the marker what that came to.
_RESOLVED = ("compare", "scores")
# Settings that tell trials and experiments apart, and no results.
_NAMES = ("experiment", "trial")
# What `environment.json` must say of versions and machine.
_MACHINE = ("pmal_tf", "python", "packages", "machine", "cpu_count", "devices")
_REPAIR = (
    "Put a sound copy back, or evaluate the trial anew with --overwrite "
    "--stages=evaluate."
)


@dataclass(frozen=True)
class TrialRun:
    """What a finished trial left.

    Attributes:
        folder: `runs/<experiment>/trial_<t>`.
        trial: Its number t.
        settings: The settings that its results depend on, the trial left out.
        result: The content of `result.json`.
        environment: The content of `environment.json`.
        calibration: The content of `calibration.json`; None where there is none.
        seconds: How long each stage took, by its folder's name.
    """

    folder: Path
    trial: int
    settings: dict[str, Any]
    result: dict[str, Any]
    environment: dict[str, Any]
    calibration: dict[str, Any] | None
    seconds: dict[str, float]

    @property
    def versions(self) -> dict[str, str]:
        """Versions of this package and of what it computes with, by name."""
        own = {name: self.environment[name] for name in ("pmal_tf", "python")}
        return {**own, **self.environment["packages"]}


@dataclass(frozen=True)
class Experiment:
    """The trials of one configuration.

    Attributes:
        name: Its folder, relative to the folder of runs.
        trials: The finished trials, in order of number.
        unfinished: Each other trial's folder, with why it does not count.
    """

    name: str
    trials: tuple[TrialRun, ...]
    unfinished: dict[Path, str]

    @property
    def config(self) -> dict[str, Any]:
        """The settings that results depend on, equal in all trials."""
        return self.trials[0].settings

    @property
    def result(self) -> dict[str, Any]:
        """The result of its first trial, for what all its trials have in common."""
        return self.trials[0].result

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Its averages, as `summarise` returns them."""
        results = [
            {**r.result, **({"calibration": r.calibration} if r.calibration else {})}
            for r in self.trials
        ]
        return summarise(self.name, results)

    @property
    def title(self) -> str:
        """Title of its own method."""
        return self.summary["titles"][self.result["method"]]

    @property
    def models(self) -> dict[str, str]:
        """Titles by name of its models, its own method first, and of the baseline.

        The baseline is among them whether or not it was run.
        """
        names = [*self.summary["models"], self.result["baseline"]]
        return {n: self.result["titles"].get(n, n) for n in names if n}

    def against_baseline(self, metric: str) -> Comparison | None:
        """Compares its own method with the baseline by a metric, e.g. `dr.auroc`.

        None where there is no baseline, or a trial lacks one of the two numbers.
        """
        baseline = self.result["baseline"] or "none"
        pairs = [
            (metric_of(run.result, metric), metric_of(run.result, metric, baseline))
            for run in self.trials
        ]
        return None if any(None in pair for pair in pairs) else compare_measured(pairs)


def read_result(trial: Path) -> dict[str, Any]:
    """Reads the `result.json` in a trial's folder.

    Raises:
        PmalError: If it is damaged, or lacks something.
        FileNotFoundError: If there is none.
    """
    return _read_record("A result", trial / "result.json", _ENTRIES)


def _read_record(what: str, path: Path, entries: Sequence[str]) -> dict[str, Any]:
    """Reads a JSON file; raises a PmalError if it lacks an entry."""
    record = read_json(path)
    lacking = [name for name in entries if name not in record]
    if not lacking and record.get("method", "") not in record.get("models", ("",)):
        lacking = [f"models of {record['method']}"]
    if lacking:
        raise PmalError(
            f"{what} must hold {', '.join(entries)}. Received: {path} without "
            f"{', '.join(lacking)}. {_REPAIR}"
        )
    return record


def settings_of(trial: Path) -> dict[str, Any]:
    """Reads the settings that an evaluated trial's results depend on.

    The trial's number is left out. Raises as `read_result` does.
    """
    path, config = trial / _EVALUATED, read_json(trial / "config.json")
    inputs = read_json(path).get("inputs")
    if not isinstance(inputs, dict):
        raise PmalError(
            "The marker of a finished stage must hold what it was made with. Received: "
            f"{path} without inputs. {_REPAIR}"
        )
    # It names images and versions too, which are no settings. Those of a method that is
    # judged beside the run's own are `<method>.<setting>`.
    known = {n: v for n, v in inputs.items() if n.rpartition(".")[2] in config}
    return {n: v for n, v in known.items() if n not in _NAMES}


def collect_runs(runs: Path) -> list[Experiment]:
    """Reads every experiment under a folder of runs (`--workdir`).

    Experiments are `<runs>/<experiment>/trial_<t>` and
    `<runs>/<group>/<experiment>/trial_<t>`; folders without a trial, and what runs
    share, are passed over.

    Returns:
        The experiments by name.

    Raises:
        PmalError: If there is no finished trial, or one experiment's trials cannot be
            averaged: two of one number, other settings or other package versions.
    """
    found: dict[Path, list[tuple[int, Path]]] = {}
    for path in (*runs.glob("*/trial_*"), *runs.glob("*/*/trial_*")):
        number = re.fullmatch(r"trial_(\d+)", path.name)
        shared = _NO_RUNS.intersection(path.relative_to(runs).parts)
        if number and path.is_dir() and not shared:
            found.setdefault(path.parent, []).append((int(number[1]), path))
    if not found:
        raise PmalError(
            "`runs` must hold run folders, <experiment>/trial_<t>. Received: "
            f"{runs}, which {'holds none' if runs.is_dir() else 'is no folder'}. Make "
            "one with python -m pmal_tf.run, or name another folder with --runs."
        )
    experiments = [
        _read_experiment(folder.relative_to(runs).as_posix(), sorted(found[folder]))
        for folder in sorted(found)
    ]
    if not any(experiment.trials for experiment in experiments):
        path, reason = next(iter(experiments[0].unfinished.items()))
        raise PmalError(
            "A report needs a finished trial. Received: "
            f"{runs}, where none is; {path}, for one: {reason}. Run the same command "
            "as before once more: it goes on where it stopped."
        )
    return experiments


def _read_experiment(name: str, numbered: Sequence[tuple[int, Path]]) -> Experiment:
    """Reads the trials of one experiment, in order of number."""
    for (one, path), (other, twin) in pairwise(numbered):
        if one == other:
            raise PmalError(
                "An experiment must hold one run of each trial. Received: "
                f"{path} and {twin}, both of trial {one}. Move one of them elsewhere."
            )
    reasons = {path: _why_unfinished(path) for _, path in numbered}
    trials = [_read_trial(n, path) for n, path in numbered if not reasons[path]]
    _check_alike(trials)
    unfinished = {path: reason for path, reason in reasons.items() if reason}
    return Experiment(name, tuple(trials), unfinished)


def _why_unfinished(folder: Path) -> str:
    """Says what a trial lacks before it can be averaged, nothing for a finished one."""
    missing = [name for name in _NEEDED if not (folder / name).exists()]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    for stage, read in read_json(folder / _EVALUATED).get("upstream", {}).items():
        path = folder / stage / MARKER
        # A stage that was tidied away says nothing; one that was made anew does.
        if path.exists() and read_json(path).get("hash") != read:
            return f"{stage} was made anew since it was evaluated"
    return ""


def _read_trial(number: int, folder: Path) -> TrialRun:
    """Reads what a finished trial left, and checks that its records agree."""
    result, config = read_result(folder), read_json(folder / "config.json")
    settings = settings_of(folder)
    asked = {n: config[n] for n in settings if n in config and n not in _RESOLVED}
    repeated = {n: result[n] for n in REPEATED if n in settings}
    protocol = result["protocol"].removesuffix(TUNING)
    if protocol not in all_protocols():
        # The classes are the user's, whatever lists the setting names.
        repeated.pop("protocol", None)
    elif settings.get("tuning_held_out"):
        repeated["protocol"] = protocol
    for name, record, same in (
        ("result.json", result, repeated),
        ("config.json", config, asked),
    ):
        recorded = record.get("trial", number)
        if recorded != number:
            raise PmalError(
                "A run folder must be named for its trial. Received: "
                f"{folder}, whose {name} is of trial {recorded}, which belongs into "
                f"{folder.with_name(f'trial_{recorded}')}. Give it its name back, or "
                "move it elsewhere."
            )
        changed = differences(settings, {**settings, **same})
        if changed:
            raise PmalError(
                "All files of a trial must hold the same settings. Received: "
                f"{folder}, whose {name} differs from what {_EVALUATED} was "
                f"made with in {'; '.join(changed)}. Run the experiment again until it "
                "ends, or move the trial elsewhere."
            )
    calibration = folder / "calibration.json"
    return TrialRun(
        folder=folder,
        trial=number,
        settings=settings,
        result=result,
        environment=_read_record(
            "An environment", folder / "environment.json", _MACHINE
        ),
        calibration=read_json(calibration) if calibration.exists() else None,
        seconds=_seconds(folder),
    )


def _seconds(folder: Path) -> dict[str, float]:
    """Returns how long each finished stage took, each after those it reads from."""
    paths = sorted(folder.glob(f"*/{MARKER}"))
    markers = {path.parent.name: read_json(path) for path in paths}
    upstream = {name: marker.get("upstream", {}) for name, marker in markers.items()}
    try:
        order = [*TopologicalSorter(upstream).static_order()]
    except CycleError as error:
        raise PmalError(
            "A stage must be made from earlier ones. Received: "
            f"{folder}, where by the `upstream` of their {MARKER} "
            f"{' is made from '.join(reversed(error.args[1]))}. {_REPAIR}"
        ) from error
    return {n: float(markers[n].get("seconds", 0.0)) for n in order if n in markers}


def _check_alike(trials: Sequence[TrialRun]) -> None:
    """Checks that trials may be averaged: equal in settings and in versions."""
    for other in trials[1:]:
        first = trials[0]
        for what, old, new in (
            ("settings", first.settings, other.settings),
            ("package versions", first.versions, other.versions),
        ):
            changed = differences(old, new)
            if changed:
                raise PmalError(
                    f"Only trials of the same {what} are averaged. Received: "
                    f"{first.folder} and {other.folder}, which differ in "
                    f"{'; '.join(changed)}. Make one of them anew, or move it into an "
                    "experiment of its own."
                )
