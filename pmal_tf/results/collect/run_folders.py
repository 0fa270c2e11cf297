"""The finished trials under a folder of runs, and a refusal to mix unlike ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pmal_tf.data.class_lists import all_protocols
from pmal_tf.data.held_out import TUNING
from pmal_tf.results.collect.paper import FIRST_RESULTS, FIRST_SETTINGS
from pmal_tf.results.collect.summary import summarise
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import MARKER, differences, read_json

# Stages that runs share, and KerasTuner's records: no runs, whatever they hold.
_NO_RUNS = {"store", "shared", "tuner"}
_EVALUATE, _EXPORT = "evaluate", "export"
# The first version left it in a stage's folder until the stage was finished.
_STARTED = "started.json"
_NEEDED = ("result.json", "config.json", "environment.json", f"{_EVALUATE}/{MARKER}")
# What `result.json` says once more of the settings, and what it says besides.
_REPEATED = ("method", "dataset", "backbone", "protocol", "seed", "epochs")
_TOLD = (*_REPEATED, "trial", "known", "unknown", "models")
# Of these `config.json` has what was asked for, and the marker what that came to.
_RESOLVED = ("compare", "scores")
# Settings that tell trials and experiments apart, and no results.
_NAMES = ("experiment", "trial")


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
        own = {
            n: str(self.environment.get(n, "unknown")) for n in ("pmal_tf", "python")
        }
        return {**own, **self.environment.get("packages", {})}


@dataclass(frozen=True)
class Experiment:
    """The trials of one configuration.

    Attributes:
        name: Its folder, relative to the folder of runs.
        folder: Where it is.
        config: The settings that results depend on, equal in all trials; of an
            experiment without a finished trial, empty.
        trials: The finished trials, in order of number.
        unfinished: Folder of each other trial, and why it does not count.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    trials: tuple[TrialRun, ...]
    unfinished: tuple[tuple[Path, str], ...]

    @property
    def result(self) -> dict[str, Any]:
        """The result of its first trial, for what all its trials have in common."""
        return self.trials[0].result

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Its averages, as `summarise` returns them."""
        told = [(run.result, run.calibration) for run in self.trials]
        results = [{**r, **({"calibration": c} if c else {})} for r, c in told]
        return summarise(self.name, results)

    @property
    def method(self) -> str:
        """Name of its own method."""
        return self.summary["method"]

    @property
    def title(self) -> str:
        """Title of its own method."""
        return self.summary["titles"][self.method]

    @property
    def models(self) -> dict[str, str]:
        """Titles of its models by name, its own method first.

        What that is judged against is among them, whether or not it was run.
        """
        names = [*self.summary["models"], self.result["baseline"]]
        return {n: self.result["titles"].get(n, n) for n in names if n}


def read_result(trial: Path) -> dict[str, Any]:
    """Reads the `result.json` in a trial's folder, of whatever version.

    Raises:
        PmalError: If it is damaged.
        FileNotFoundError: If there is none.
    """
    return {**FIRST_RESULTS, **read_json(trial / "result.json")}


def settings_of(trial: Path) -> dict[str, Any]:
    """Reads the settings that a trial's results depend on, of whatever version.

    Args:
        trial: An evaluated trial's folder.

    Returns:
        The settings, the trial left out.

    Raises:
        PmalError: If a record is damaged, or does not tell them.
        FileNotFoundError: If there is none.
    """
    path, config = trial / _EVALUATE / MARKER, read_json(trial / "config.json")
    inputs = read_json(path).get("inputs")
    if not isinstance(inputs, dict):
        raise PmalError(
            "The marker of a finished stage must tell what it was made with. Received: "
            f"{path} without inputs. Put a sound copy back, or evaluate the trial anew "
            "with --overwrite --stages=evaluate."
        )
    # It names images and versions too, which are no settings. Those of a method that is
    # judged beside the run's own are `<method>.<setting>`.
    known = {n: v for n, v in inputs.items() if n.rpartition(".")[2] in config}
    told = {n: v for n, v in known.items() if n not in _NAMES}
    return told if "method" in told else {**FIRST_SETTINGS, **told}


def collect_runs(runs: Path) -> list[Experiment]:
    """Reads every experiment under a folder of runs.

    Experiments are `<runs>/<experiment>/trial_<t>` and
    `<runs>/<group>/<experiment>/trial_<t>`; folders without a trial, and `shared`, are
    passed over.

    Args:
        runs: What was `--workdir` of the runs.

    Returns:
        The experiments by name.

    Raises:
        PmalError: If there is no finished trial, or one experiment's trials cannot be
            averaged: two of one number, other settings or other package versions.
    """
    experiments = [
        _read_experiment(folder.relative_to(runs).as_posix(), folder)
        for folder in _experiment_folders(runs)
    ]
    if not experiments:
        raise PmalError(
            "`runs` must hold run folders, <experiment>/trial_<t>. Received: "
            f"{runs}, which {'holds none' if runs.is_dir() else 'is no folder'}. Make "
            "one with python -m pmal_tf.run, or name another folder with --runs."
        )
    if not any(experiment.trials for experiment in experiments):
        path, reason = next(u for e in experiments for u in e.unfinished)
        raise PmalError(
            "A report needs a finished trial. Received: "
            f"{runs}, where none is; {path}, for one: {reason}. Run the same command "
            "as before once more: it goes on where it stopped."
        )
    return experiments


def _experiment_folders(runs: Path) -> Iterator[Path]:
    """Yields the folders that hold trials, one or two levels deep, in order."""
    for folder in _folders_in(runs):
        for candidate in (folder, *_folders_in(folder)):
            if {folder.name, candidate.name} & _NO_RUNS:
                continue
            if any(
                _trial_number(inner) is not None for inner in _folders_in(candidate)
            ):
                yield candidate


def _folders_in(folder: Path) -> list[Path]:
    """Returns the folders in a folder, in order of name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _trial_number(folder: Path) -> int | None:
    """Returns the trial that a folder is named for, None for other folders."""
    match = re.fullmatch(r"trial_(\d+)", folder.name)
    return int(match[1]) if match else None


def _read_experiment(name: str, folder: Path) -> Experiment:
    """Reads the trials of one experiment.

    Raises:
        PmalError: If they cannot be averaged.
    """
    numbered: dict[int, Path] = {}
    for path in _folders_in(folder):
        number = _trial_number(path)
        if number is None:
            continue
        if number in numbered:
            raise PmalError(
                "An experiment must hold one run of each trial. Received: "
                f"{numbered[number]} and {path}, both of trial {number}. Move one of "
                "them elsewhere."
            )
        numbered[number] = path
    trials, unfinished = [], []
    for number, path in sorted(numbered.items()):
        reason = _why_unfinished(path)
        if reason is None:
            trials.append(_read_trial(number, path))
        else:
            unfinished.append((path, reason))
    check_alike(trials)
    config = trials[0].settings if trials else {}
    return Experiment(name, folder, config, tuple(trials), tuple(unfinished))


def _why_unfinished(folder: Path) -> str | None:
    """Says what a trial lacks before it can be averaged, None for nothing."""
    missing = [name for name in _NEEDED if not (folder / name).exists()]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    for path in sorted(folder.glob(f"*/{_STARTED}")):
        # An export tells nothing of results.
        if path.parent.name != _EXPORT and not path.with_name(MARKER).exists():
            return f"{path.parent.name} has begun and is not finished"
    upstream = read_json(folder / _EVALUATE / MARKER).get("upstream", {})
    for stage, made_from in upstream.items():
        path = folder / stage / MARKER
        # A stage that was tidied away says nothing; one that was made anew does.
        if path.exists() and read_json(path).get("hash") != made_from:
            return f"{stage} was made anew since it was evaluated"
    return None


def _read_trial(number: int, folder: Path) -> TrialRun:
    """Reads what a finished trial left.

    Raises:
        PmalError: If its records contradict each other, or one is damaged.
    """
    result, config = read_result(folder), read_json(folder / "config.json")
    settings = settings_of(folder)
    lacking = [name for name in _TOLD if name not in result]
    if not lacking and result["method"] not in result["models"]:
        lacking = [f"models of {result['method']}"]
    if lacking:
        raise PmalError(
            f"A result must tell {', '.join(_TOLD)}. Received: "
            f"{folder / 'result.json'} without {', '.join(lacking)}. Put a sound copy "
            "back, or evaluate the trial anew with --overwrite --stages=evaluate."
        )
    _check_number(number, folder, result, config)
    _check_records(folder, settings, result, config)
    calibration = folder / "calibration.json"
    return TrialRun(
        folder=folder,
        trial=number,
        settings=settings,
        result=result,
        environment=read_json(folder / "environment.json"),
        calibration=read_json(calibration) if calibration.exists() else None,
        seconds=_seconds(folder),
    )


def _check_number(
    number: int, folder: Path, result: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Raises a PmalError if a trial's folder is named for another trial."""
    for name, record in (("result.json", result), ("config.json", config)):
        told = record.get("trial", number)
        if told != number:
            raise PmalError(
                "A run folder must be named for its trial. Received: "
                f"{folder}, whose {name} is of trial {told}, which belongs into "
                f"{folder.with_name(f'trial_{told}')}. Give it its name back, or move "
                "it elsewhere."
            )


def _check_records(
    folder: Path,
    settings: Mapping[str, Any],
    result: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Raises a PmalError if the files of a trial tell of different settings."""
    told = {n: config[n] for n in settings if n in config and n not in _RESOLVED}
    repeated = {n: result[n] for n in _REPEATED if n in settings}
    protocol = result["protocol"]
    if protocol.removesuffix(TUNING) not in all_protocols():
        # The classes are the user's, whatever lists the setting names.
        repeated.pop("protocol", None)
    elif settings.get("tuning_held_out"):
        repeated["protocol"] = protocol.removesuffix(TUNING)
    for name, record in (("config.json", told), ("result.json", repeated)):
        changed = differences(dict(settings), {**settings, **record})
        if changed:
            raise PmalError(
                "All files of a trial must tell of the same settings. Received: "
                f"{folder}, whose {name} differs from what {_EVALUATE}/{MARKER} was "
                f"made with in {'; '.join(changed)}. Run the experiment again until it "
                "ends, or move the trial elsewhere."
            )


def _seconds(folder: Path) -> dict[str, float]:
    """Returns how long each finished stage took, each after those it was made from."""
    markers = {path.parent.name: read_json(path) for path in folder.glob(f"*/{MARKER}")}
    order = TopologicalSorter(
        {name: set(m.get("upstream", {})) & set(markers) for name, m in markers.items()}
    )
    order.prepare()
    seconds = {}
    while order.is_active():
        for name in sorted(order.get_ready()):
            seconds[name] = float(markers[name].get("seconds", 0.0))
            order.done(name)
    return seconds


def check_alike(trials: Sequence[TrialRun]) -> None:
    """Checks that trials may be averaged.

    Args:
        trials: Finished trials of one experiment.

    Raises:
        PmalError: If they differ in a setting that results depend on, or in versions.
    """
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
