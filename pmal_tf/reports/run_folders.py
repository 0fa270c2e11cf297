"""The finished trials under a folder of runs, and a refusal to mix unlike ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.data.held_out import TUNING
from pmal_tf.data.splits import CUSTOM
from pmal_tf.errors import PmalError
from pmal_tf.workdir import MARKER, STARTED, Marker, differences, read_json

# Stages that runs share, and KerasTuner's records: no runs, whatever they hold.
_NO_RUNS = {"shared", "tuner"}
_EVALUATE, _EXPORT = "evaluate", "export"
_NEEDED = ("result.json", "config.json", "environment.json", f"{_EVALUATE}/{MARKER}")
# Settings that markers written before there was such a setting do not name.
_ADDED_LATER = {
    "set_distance": "attention",
    "tuning_held_out": False,
    "mining_repeats": 0,
}
_TOLD = ("trial", "protocol", "known", "unknown", "models")
# What `result.json` says once more of the settings.
_REPEATED = ("dataset", "backbone", "protocol", "seed", "epochs")


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
    def protocol(self) -> str:
        """The protocol, as results name it."""
        return self.trials[0].result["protocol"] if self.trials else ""


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
    for path in sorted(folder.glob(f"*/{STARTED}")):
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
    marker = Marker.read(folder / _EVALUATE, _EVALUATE)
    result = read_json(folder / "result.json")
    config = read_json(folder / "config.json")
    inputs = {**_ADDED_LATER, **(marker.inputs if marker else {})}
    inputs.pop("trial", None)
    lacking = [name for name in _TOLD if name not in result]
    if lacking:
        raise PmalError(
            f"A result must tell {', '.join(_TOLD)}. Received: "
            f"{folder / 'result.json'} without {', '.join(lacking)}. Put a sound copy "
            "back, or evaluate the trial anew with --overwrite --stages=evaluate."
        )
    _check_number(number, folder, result, config)
    _check_records(folder, inputs, result, config)
    calibration = folder / "calibration.json"
    return TrialRun(
        folder=folder,
        trial=number,
        settings=inputs,
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
    inputs: Mapping[str, Any],
    result: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Raises a PmalError if the files of a trial tell of different settings."""
    told = {n: config.get(n, inputs[n]) for n in inputs}
    repeated = {n: result[n] for n in _REPEATED if n in result and n in inputs}
    protocol = str(repeated.get("protocol", ""))
    if inputs.get("tuning_held_out"):
        protocol = repeated["protocol"] = protocol.removesuffix(TUNING)
    if protocol == CUSTOM:  # The classes are listed by hand.
        repeated.pop("protocol")
    for name, record in (
        ("config.json", told),
        ("result.json", {**inputs, **repeated}),
    ):
        changed = differences(dict(inputs), record)
        if changed:
            raise PmalError(
                "All files of a trial must tell of the same settings. Received: "
                f"{folder}, whose {name} differs from what {_EVALUATE}/{MARKER} was "
                f"made with in {'; '.join(changed)}. Run the experiment again until it "
                "ends, or move the trial elsewhere."
            )


def _seconds(folder: Path) -> dict[str, float]:
    """Returns how long each finished stage took, in the order they were finished."""
    markers = {path.parent.name: read_json(path) for path in folder.glob(f"*/{MARKER}")}
    names = sorted(markers, key=_stage_order)
    return {name: float(markers[name].get("seconds", 0.0)) for name in names}


def _stage_order(name: str) -> tuple[int, str]:
    """Returns what sorts stages as they run."""
    order = ("pretrain", "mining", "optimize", "control", "evaluate", "export")
    kind = name.partition("_")[0]
    return (order.index(kind) if kind in order else len(order), name)


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
