"""The recipe of an experiment: the stages of each trial, then a summary.

    pretrain_<u> -> mine -> optimize -> evaluate -> export
               `---------> control --^

Every stage writes its own folder of the trial and a marker; a finished stage is skipped
as long as nothing it depends on has changed.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
from absl import logging

from pmal_tf.config import Config
from pmal_tf.data.sources import get_source
from pmal_tf.data.splits import open_set_split
from pmal_tf.environment import describe_environment
from pmal_tf.errors import PmalError
from pmal_tf.reports.summary import render_summary, summarise_experiment
from pmal_tf.stages import control, evaluate, export, mine, optimize, pretrain
from pmal_tf.trial import Trial
from pmal_tf.workdir import (
    MARKER,
    Marker,
    checksum,
    differences,
    read_json,
    write_json,
    write_text,
)


@dataclass(frozen=True)
class Stage:
    """One step of a trial.

    Attributes:
        folder: Its name, and that of its folder in the trial's.
        kind: Its name in `--stages`.
        run: Does the work; returns the files it made, relative to the trial's folder,
            and facts for the marker.
        needs: Folders of the stages it reads from.
        is_stale: Whether a finished stage has to run again for a reason of its own.
    """

    folder: str
    kind: str
    run: Callable[[Trial], tuple[list[str], dict[str, Any]]]
    needs: tuple[str, ...] = ()
    is_stale: Callable[[Trial, Marker], bool] = field(default=lambda *_: False)


def plan(config: Config) -> list[Stage]:
    """Returns the stages of a trial in order, wanted or not."""
    pretrained = tuple(f"pretrain_{model}" for model in range(config.num_models))
    stages = [
        Stage(name, "pretrain", functools.partial(pretrain.run, model=model))
        for model, name in enumerate(pretrained)
    ]
    stages.append(Stage("mining", "mine", mine.run, pretrained))
    stages.append(Stage("optimize", "optimize", optimize.run, ("pretrain_0", "mining")))
    judged: tuple[str, ...] = ("pretrain_0", "mining", "optimize")
    if config.control:
        stages.append(Stage("control", "control", control.run, ("pretrain_0",)))
        judged = (*judged, "control")
    stages.append(Stage("evaluate", "evaluate", evaluate.run, judged))
    stages.append(
        Stage(
            "export",
            "export",
            export.run,
            ("mining", "optimize", "evaluate"),
            export.is_stale,
        )
    )
    return stages


def run_experiment(config: Config) -> str:
    """Runs the wanted stages of every trial.

    Args:
        config: The settings.

    Returns:
        The table of results over all finished trials, or a line where there are none.

    Raises:
        PmalError: If something the user can mend is wrong.
    """
    source = get_source(config.dataset)
    for trial in config.trials:
        open_set_split(source, config.protocol, trial)  # Fail before any work is done.
    for trial in config.trials:
        run_trial(config, trial)
    if not list(config.run_folder.glob("trial_*/result.json")):
        return "No trial is evaluated yet."
    return render_summary(summarise_experiment(config.run_folder))


def run_trial(config: Config, number: int) -> None:
    """Runs the wanted stages of one trial.

    Raises:
        PmalError: If the run folder holds another configuration, a stage that is needed
            is missing, or a finished one is damaged.
    """
    trial = Trial(config, number)
    _claim_folder(trial)
    runner = _Runner(trial, {stage.folder: stage for stage in plan(config)})
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        for stage in plan(config):
            if stage.kind in config.wanted_stages:
                runner.run(stage)
    finally:
        keras.config.set_dtype_policy(policy)


def _claim_folder(trial: Trial) -> None:
    """Checks that the folder is of this configuration, and records it.

    Raises:
        PmalError: If the folder cannot be written, or is of another configuration.
    """
    config, path = trial.config, trial.folder / "config.json"
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        write_text(trial.folder / "writable.tmp", "")
        (trial.folder / "writable.tmp").unlink()
    except OSError as error:
        raise PmalError(
            "`workdir` must be a folder that can be written. Received: "
            f"{trial.folder}: {error.strerror}. Choose another with --workdir."
        ) from error
    if path.exists() and not config.overwrite:
        stored = read_json(path)
        defaults = {f.name: f.default for f in dataclasses.fields(Config)}
        relevant = _result_settings(config)
        old = {name: stored.get(name, defaults[name]) for name in relevant}
        changed = differences(old, relevant)
        if changed:
            raise PmalError(
                "A run folder holds one configuration. Received: another one for "
                f"{trial.folder}, which differs in {'; '.join(changed)}. Choose a new "
                "--experiment, or make stages anew with --overwrite."
            )
    write_json(path, dataclasses.asdict(config) | {"trial": trial.number})
    only_this = dataclasses.replace(config, trials=(trial.number,), overwrite=False)
    write_text(trial.folder / "flags.txt", only_this.to_flags())
    write_json(trial.folder / "environment.json", describe_environment(config.seed))


def _result_settings(config: Config) -> dict[str, Any]:
    """Returns the settings that any result depends on."""
    return config.inputs_of("evaluate")


@dataclass(frozen=True)
class _Runner:
    """Runs the stages of a trial, skipping those that are finished.

    Attributes:
        trial: The trial.
        stages: All stages of the plan, by folder.
        hashes: Hash of each stage that is known to be finished and sound.
    """

    trial: Trial
    stages: dict[str, Stage]
    hashes: dict[str, str] = field(default_factory=dict)

    def run(self, stage: Stage) -> None:
        """Runs a stage, unless it is finished."""
        trial, folder = self.trial, self.trial.folder / stage.folder
        label = f"trial {trial.number}  {stage.folder}"
        upstream = {name: self._finished(name) for name in stage.needs}
        if trial.config.overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        marker = Marker.read(folder)
        if marker is not None and marker.upstream != upstream:
            logging.info("%s: what it was made from has changed", label)
        elif marker is not None and self._is_sound(stage, marker):
            logging.info("%s: finished before (%.1f s), skipped", label, marker.seconds)
            self.hashes[stage.folder] = marker.hash
            return
        logging.info("%s: starts", label)
        # A marker of old must not vouch for files that are being made anew.
        (folder / MARKER).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        made, facts = stage.run(trial)
        outputs = {name: checksum(trial.folder / name) for name in made}
        seconds = time.perf_counter() - began
        marker = Marker(self._inputs(stage), upstream, outputs, seconds, facts)
        marker.write(folder)
        self.hashes[stage.folder] = marker.hash
        logging.info("%s: done in %.1f s", label, seconds)

    def _inputs(self, stage: Stage) -> dict[str, Any]:
        """Returns what a stage's marker keeps of the settings."""
        config = self.trial.config
        return config.inputs_of(stage.kind) | {"trial": self.trial.number}

    def _finished(self, name: str) -> str:
        """Returns the hash of a stage that others read from.

        Raises:
            PmalError: If it is not finished, not sound, or older than what it was made
                from.
        """
        if name in self.hashes:
            return self.hashes[name]
        stage = self.stages[name]
        marker = Marker.read(self.trial.folder / name)
        state = "is not finished"
        if marker is not None and self._is_sound(stage, marker):
            upstream = {need: self._finished(need) for need in stage.needs}
            if marker.upstream == upstream:
                self.hashes[name] = marker.hash
                return marker.hash
            state = "was made from stages that have changed since"
        raise PmalError(
            f"Every stage before the wanted ones must be finished. Received: {name} of "
            f"{self.trial.folder}, which {state}. Name {stage.kind} in --stages too; "
            "finished stages are skipped."
        )

    def _is_sound(self, stage: Stage, marker: Marker) -> bool:
        """Tells whether a stage stands as it was made, with these settings.

        Raises:
            PmalError: If it was made with other settings, or its files were changed.
        """
        changed = differences(marker.inputs, self._inputs(stage))
        if changed:
            raise PmalError(
                f"Stage {stage.folder} of {self.trial.folder} was made with other "
                f"settings. Received: {'; '.join(changed)}. Choose a new --experiment, "
                f"or make it anew with --overwrite --stages={stage.kind}."
            )
        marker.check_outputs(self.trial.folder)
        return not stage.is_stale(self.trial, marker)
