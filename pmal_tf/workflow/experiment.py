"""The recipe of an experiment: the stages of each trial, then a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from pmal_tf.backbones.build import check_start
from pmal_tf.data.splits import trials_of_equal_classes
from pmal_tf.data.trial_images import TrialImages
from pmal_tf.methods.registry import get_method
from pmal_tf.methods.trial import START, Trial
from pmal_tf.results.collect.summary import (
    describe_export,
    render_summary,
    summarise_experiment,
)
from pmal_tf.runtime import distribution
from pmal_tf.runtime.environment import describe_environment, library_versions
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import (
    MARKER,
    check_writable,
    checksum,
    read_json,
    write_json,
    write_text,
)
from pmal_tf.runtime.precision import check_precision, in_precision
from pmal_tf.runtime.stage import Stage
from pmal_tf.workflow.config import EVALUATE, EXPORT, Config
from pmal_tf.workflow.engine import Workflow, merged
from pmal_tf.workflow.flags import to_flags
from pmal_tf.workflow.stages.evaluate import evaluate_stage
from pmal_tf.workflow.stages.export import export_stage, parent_folder
from pmal_tf.workflow.store import Store

_START_RECORD = "start.json"


def open_trial(config: Config, number: int) -> Trial:
    """Returns a trial of an experiment; images are not read yet."""
    folder = config.run_folder / f"trial_{number}"
    images = TrialImages(config.data, number, config.run.seed, folder)
    network = config.network.resolved()
    return Trial(
        number, config.run.seed, images, network, config.recipe, config.devices
    )


def plan(config: Config, trial: Trial) -> list[Stage]:
    """Returns the stages of a trial in order, wanted or not."""
    stages = [
        stage
        for name, settings in config.methods.items()
        for stage in get_method(name).stages(trial, settings)
    ]
    return merged([*stages, evaluate_stage(config, trial), export_stage(config, trial)])


def run_experiment(config: Config) -> str:
    """Runs the wanted stages of every trial.

    Returns:
        The table of results over the trials that are evaluated with these settings, or
        a line where there are none; on several hosts, empty on all but the chief.

    Raises:
        PmalError: If something the user can mend is wrong.
        Interrupted: If the process was asked to leave.
    """
    # Before TensorFlow's first operation: several hosts must find each other first.
    strategy = distribution.open_strategy(
        config.devices.strategy, config.devices.worker_timeout_seconds
    )
    with distribution.using(strategy), distribution.report_lost_hosts():
        return _run_trials(config)


def _run_trials(config: Config) -> str:
    """Does so under the strategy in use."""
    # Fail before any work is done.
    trials = {number: open_trial(config, number) for number in config.run.trials}
    splits = [trial.images.split for trial in trials.values()]
    for trial in trials.values():
        for name, settings in config.methods.items():
            get_method(name).check(trial, settings)
    first = next(iter(trials.values()))
    kinds = dict.fromkeys(stage.kind for stage in plan(config, first))
    wanted = config.run.stages or tuple(kinds)
    if strange := ",".join(kind for kind in wanted if kind not in kinds):
        raise PmalError(
            f"`stages` must name stages of this run: {', '.join(kinds)}. Received: "
            f"stages={strange}. Stages of another method come with --method or "
            "--compare."
        )
    _check_devices(config)
    if not all((t.images.folder / EVALUATE / MARKER).exists() for t in trials.values()):
        # Some model may have to start from the file of --init_weights.
        check_start(config.network, config.data.image_size)
    if distribution.is_chief():
        _check_folders(config)
    for group in trials_of_equal_classes((s.trial, s.known) for s in splits):
        logging.warning(
            f"Trials {', '.join(map(str, group))} of {config.data.dataset} have the "
            "same known classes: their training differs by seed only."
        )
    logging.info(
        f"{config.run.experiment}: {config.own_method.title}, trials "
        f"{', '.join(map(str, trials))}, {config.recipe.epochs} epochs a stage, "
        f"backbone {config.network.backbone} at width {config.network.width:g}, "
        f"{first.network.precision}"
    )
    for trial in trials.values():
        with in_precision(trial.network.precision):
            workflow_of(config, trial).run(wanted)
        if distribution.is_chief():
            # Also where all was taken; another command may have begun here meanwhile.
            _record_settings(config, trial, anew=False)
    if not distribution.is_chief():
        return ""
    evaluated = _evaluated_trials(config, trials)
    if not evaluated:
        return "No trial is evaluated yet.\n"
    summary = summarise_experiment(config.run_folder, evaluated)
    return render_summary(summary) + _describe_exports(config, trials)


def workflow_of(config: Config, trial: Trial) -> Workflow:
    """Returns what runs the stages of a trial."""
    stages = plan(config, trial)
    renew = config.run.stages or tuple(stage.kind for stage in stages)

    def begin(stage: Stage) -> None:
        if "training" in stage.inputs or "test" in stage.inputs:
            trial.images.source.check()
            _ = trial.images.train
        if distribution.is_chief():
            _record_settings(config, trial)

    return Workflow(
        stages,
        Store(config.store_folder),
        trial.images.folder,
        fingerprint=lambda name: _fingerprint(trial, name),
        versions=library_versions(),
        label=f"trial {trial.number}  ",
        renew=renew if config.run.overwrite else (),
        begin=begin,
    )


def _fingerprint(trial: Trial, name: str) -> str:
    """Returns the fingerprint of images, or of the file that training starts from."""
    if name != START:
        return trial.images.fingerprint(name)
    start = Path(trial.network.init_weights)
    record = trial.images.folder / _START_RECORD
    if start.is_file():
        return checksum(start)
    # Models that are finished do not need the file any more.
    stored = read_json(record) if record.exists() else {}
    return str(stored.get(str(start), ""))


def _record_settings(config: Config, trial: Trial, *, anew: bool = True) -> None:
    """Writes what is needed to repeat the trial; `anew` if something is to be made."""
    folder, number = trial.images.folder, trial.number
    write_json(folder / "config.json", {**config.values(), "trial": number})
    alone = config.changed(trials=(number,), overwrite=False)
    write_text(folder / "flags.txt", to_flags(alone))
    if anew or not (folder / "environment.json").exists():
        described = describe_environment(config.run.seed)
        described["precision"] = trial.network.precision
        write_json(folder / "environment.json", described)
    trial.images.write_record()
    start = Path(config.network.init_weights)
    if start.is_file():
        write_json(folder / _START_RECORD, {str(start): checksum(start)})


def _check_devices(config: Config) -> None:
    """Refuses what the devices cannot do, and sets up what they are to do."""
    precision = config.network.resolved().precision
    tflite = ",".join(config.serving.tflite)
    replicas, batch_size = distribution.replicas(), config.recipe.batch_size
    check_precision(precision)
    several = replicas > 1
    for refused, sentence in (
        (
            tflite and precision != "float32",
            "TensorFlow Lite's converter takes networks in float32 only. Received: "
            f"tflite={tflite} with precision={precision}. Set --precision=float32.",
        ),
        (
            tflite and distribution.several_hosts(),
            "TensorFlow Lite models are made on one host. Received: "
            f"tflite={tflite} on several. Leave --tflite out, and add it when the same "
            "command is started on one host: it exports only.",
        ),
        (
            batch_size % replicas,
            "A batch must be divisible by the number of replicas. Received: "
            f"batch_size={batch_size} on {replicas} replicas. Choose another "
            "--batch_size, or use fewer devices.",
        ),
        (
            several and precision == "mixed_float16",
            "Replicas would scale their losses apart, since each looks for overflows "
            f"in its own gradients. Received: precision=mixed_float16 on {replicas} "
            "replicas. Use --precision=mixed_bfloat16 or float32.",
        ),
        (
            several and config.recipe.jit == "on",
            "XLA compiles the training step of one device only. Received: jit=on "
            f"on {replicas} replicas. Leave --jit=auto.",
        ),
    ):
        if refused:
            raise PmalError(sentence)
    if several:
        logging.info(
            f"{replicas} replicas, {distribution.local_replicas()} of them here, each "
            f"with {batch_size // replicas} images of a batch"
        )
    if config.devices.deterministic:
        tf.config.experimental.enable_op_determinism()


def _check_folders(config: Config) -> None:
    """Checks that the folders can be written."""
    for flag, folder in (
        ("workdir", config.run_folder),
        ("export_dir", Path(config.serving.export_dir)),
        ("store_dir", config.store_folder),
    ):
        try:
            check_writable(folder)
        except OSError as error:
            raise PmalError(
                f"`{flag}` must be a folder that can be written. Received: {folder}: "
                f"{error.strerror}. Choose another with --{flag}."
            ) from error


def _evaluated_trials(config: Config, trials: dict[int, Trial]) -> list[dict[str, Any]]:
    """Returns the results that were made with these settings and still stand."""
    results = []
    paths = config.run_folder.glob("trial_*/result.json")
    names = (path.parent.name.removeprefix("trial_") for path in paths)
    for number in sorted(int(name) for name in names if name.isdecimal()):
        try:
            trial = trials.get(number) or open_trial(config, number)
            # Not from the trial's folder, which may show results of other settings.
            made = workflow_of(config, trial).finished(EVALUATE).folder
            calibration = read_json(made / "calibration.json")
            result = read_json(made / "result.json")
            results.append({**result, "calibration": calibration})
        except PmalError as error:
            logging.warning("Trial %d is left out of the table. %s", number, error)
    return results


def _describe_exports(config: Config, trials: dict[int, Trial]) -> str:
    """Says where the models of the wanted trials lie and what they reject."""
    lines = []
    for number, trial in trials.items():
        if not (trial.images.folder / EXPORT / MARKER).exists():
            continue
        workflow = workflow_of(config, trial)
        try:
            version = workflow.finished(EXPORT).marker.facts["version"]
        except PmalError:  # It is of other settings.
            continue
        made = workflow.finished(EVALUATE).folder
        calibration = read_json(made / "calibration.json")
        folder = parent_folder(config, number) / version
        lines.append(describe_export(folder, config.rule, calibration))
    return "".join(["\n", *lines]) if lines else ""
