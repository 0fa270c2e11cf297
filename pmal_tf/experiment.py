"""The recipe of an experiment: the stages of each trial, then a summary.

An arrow leads from a stage to those that read what it made:

    pretrain_<u> -> mine -> optimize -> evaluate -> export
               `----------> control -----^
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from pmal_tf import distribution
from pmal_tf.config import Config, default_settings
from pmal_tf.data.splits import trials_of_equal_classes
from pmal_tf.errors import PmalError
from pmal_tf.precision import check_precision
from pmal_tf.reports.exports import describe_export
from pmal_tf.reports.summary import render_summary, summarise_experiment
from pmal_tf.runner import Runner, Stage
from pmal_tf.stages import control, evaluate, export, mine, optimize, pretrain
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, check_writable, differences, read_json


def plan(config: Config) -> list[Stage]:
    """Returns the stages of a trial in order, wanted or not."""
    models = pretrain.models(config)
    pretrained = tuple(f"pretrain_{model}" for model in models)
    stages = [
        Stage(
            name,
            pretrain.kind_of(model),
            functools.partial(pretrain.run, model=model),
            is_stale=pretrain.is_stale,
        )
        for name, model in zip(pretrained, models, strict=True)
    ]
    stages.append(Stage("mining", "mine", mine.run, pretrained))
    stages.append(Stage("optimize", "optimize", optimize.run, ("pretrain_0", "mining")))
    judged: tuple[str, ...] = ("pretrain_0", "mining", "optimize")
    if config.control:
        stages.append(Stage("control", "control", control.run, ("pretrain_0",)))
        judged = (*judged, "control")
    stages.append(
        Stage("evaluate", "evaluate", evaluate.run, judged, evaluate.is_stale)
    )
    exported = ("mining", "optimize", "evaluate")
    stages.append(
        Stage(
            *("export", "export", export.run, exported, export.is_stale),
            distributed=False,
        )
    )
    return stages


def run_experiment(config: Config) -> str:
    """Runs the wanted stages of every trial.

    Args:
        config: The settings.

    Returns:
        The table of results over the trials that are evaluated with these settings, or
        a line where there are none; on several hosts, empty on all but the chief.

    Raises:
        PmalError: If something the user can mend is wrong.
        Interrupted: If the process was asked to leave.
    """
    # Before TensorFlow's first operation: several hosts must find each other first.
    strategy = distribution.open_strategy(
        config.strategy, config.worker_timeout_seconds
    )
    with distribution.using(strategy), distribution.losses_of_hosts_told():
        return _run_trials(config)


def _run_trials(config: Config) -> str:
    """Runs the wanted stages of every trial; see `run_experiment`."""
    # Fail before any work is done.
    trials = [Trial(config, number) for number in config.trials]
    splits = [trial.split for trial in trials]
    for trial in trials:
        _ = trial.mining_settings
        trial.recipe.build_schedule(steps_per_epoch=1)
    _check_devices(config)
    if distribution.is_chief():
        _check_folders(config)
    pretrain.check_start(trials)
    for group in trials_of_equal_classes((s.trial, s.known) for s in splits):
        logging.warning(
            "Trials %s of %s have the same known classes: their training differs by "
            "seed only.",
            *(", ".join(map(str, group)), config.dataset),
        )
    logging.info(
        "%s: trials %s, %d epochs a stage, backbone %s at width %g",
        *(config.experiment, ", ".join(map(str, config.trials)), config.epochs),
        *(config.backbone, config.width),
    )
    for number in config.trials:
        run_trial(config, number)
    if not distribution.is_chief():
        return ""
    evaluated = _evaluated_trials(config)
    if not evaluated:
        return "No trial is evaluated yet.\n"
    summary = summarise_experiment(config.run_folder, evaluated)
    return render_summary(summary) + _describe_exports(config)


def _describe_exports(config: Config) -> str:
    """Says where the models of the wanted trials lie and what they reject."""
    lines = []
    for number in config.trials:
        trial = Trial(config, number)
        marker = Marker.read(trial.folder / "export", "export")
        if marker is not None:
            folder = export.parent_folder(trial) / marker.facts["version"]
            calibration = read_json(trial.folder / "calibration.json")
            lines.append(describe_export(folder, config.rule, calibration))
    return "".join(["\n", *lines]) if lines else ""


def run_trial(config: Config, number: int) -> None:
    """Runs the wanted stages of one trial.

    Raises:
        PmalError: If a stage that is needed is missing, or a finished one is damaged.
    """
    stages = plan(config)
    trial = Trial(config, number)
    if not config.overwrite:
        trial.check_images()
    runner = Runner(trial, stages)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.precision)
    try:
        for stage in stages:
            if stage.kind in config.wanted_stages:
                runner.run(stage)
    finally:
        keras.config.set_dtype_policy(policy)


def _check_devices(config: Config) -> None:
    """Checks and sets up what the devices are to do.

    Raises:
        PmalError: If they cannot.
    """
    check_precision(config.precision)
    if config.tflite and config.precision != "float32":
        raise PmalError(
            "TensorFlow Lite's converter takes networks in float32 only. Received: "
            f"tflite={','.join(config.tflite)} with precision={config.precision}"
        )
    replicas = distribution.replicas()
    if config.batch_size % replicas:
        raise PmalError(
            "A batch must be divisible by the number of replicas. Received: "
            f"batch_size={config.batch_size} on {replicas} replicas. Choose another "
            "--batch_size, or use fewer devices."
        )
    if replicas > 1:
        logging.info(
            "%d replicas, %d of them here, each with %d images of a batch",
            *(replicas, distribution.local_replicas(), config.batch_size // replicas),
        )
        if config.precision == "mixed_float16":
            raise PmalError(
                "Replicas would scale their losses apart, since each looks for "
                "overflows in its own gradients. Received: precision=mixed_float16 on "
                f"{replicas} replicas. Use --precision=mixed_bfloat16 or float32."
            )
        if config.jit == "on":
            raise PmalError(
                "XLA compiles the training step of one device only. Received: jit=on "
                f"on {replicas} replicas. Leave --jit=auto."
            )
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def _check_folders(config: Config) -> None:
    """Checks that the folders can be written and are of this configuration.

    Raises:
        PmalError: If one cannot be written, or a trial that is not to be made anew was
            made with other settings.
    """
    for flag, folder in (
        ("workdir", config.run_folder),
        ("export_dir", Path(config.export_dir)),
    ):
        try:
            check_writable(folder)
        except OSError as error:
            raise PmalError(
                f"`{flag}` must be a folder that can be written. Received: {folder}: "
                f"{error.strerror}. Choose another with --{flag}."
            ) from error
    wanted, defaults = config.trained_settings, default_settings()
    for number in _trials_in(config.run_folder):
        path = config.run_folder / f"trial_{number}" / "config.json"
        if not path.exists() or (config.overwrite and number in config.trials):
            continue
        stored = read_json(path)
        changed = differences({n: stored.get(n, defaults[n]) for n in wanted}, wanted)
        if changed:
            raise PmalError(
                "The trials of a run folder share one configuration. Received: another "
                f"one than that of {path.parent}, which differs in "
                f"{'; '.join(changed)}. Choose a new --experiment, or add --overwrite "
                f"--stages={','.join(config.stages_of(changed))} to make these anew; "
                "then the same command without these two makes what follows."
            )


def _trials_in(folder: Path) -> list[int]:
    """Returns the numbers of the trials that have a folder."""
    names = (path.name for path in folder.glob("trial_*"))
    found = (re.fullmatch(r"trial_(\d+)", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def _evaluated_trials(config: Config) -> list[dict[str, Any]]:
    """Returns the results that were made with these settings and still stand."""
    results = []
    for number in _trials_in(config.run_folder):
        trial = Trial(config, number)
        if not (trial.folder / "result.json").exists():
            continue
        try:
            trial.check_images()
            Runner(trial, plan(config)).finished("evaluate")
            calibration = read_json(trial.folder / "calibration.json")
            result = read_json(trial.folder / "result.json")
            results.append({**result, "calibration": calibration})
        except PmalError as error:
            logging.warning("Trial %d is left out of the table. %s", number, error)
    return results
