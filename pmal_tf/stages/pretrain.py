"""Pre-training of the softmax classifiers M^1 .. M^U (Section 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from pmal_tf.api import load_model
from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.backbones.initial import check_initial_model, classifier_from
from pmal_tf.config import Config
from pmal_tf.errors import PmalError
from pmal_tf.mining.qualities import mc_dropout
from pmal_tf.training.fit import finish, fit_classifier
from pmal_tf.trial import Trial
from pmal_tf.workdir import MARKER, Marker, checksum

# The classifier that a rival of Table 4 needs beside M^1 .. M^U.
MC_DROPOUT = "mc_dropout"
# The marker's fact that says which file the weights started from.
_START = "init_weights"


def models(config: Config) -> list[int | str]:
    """Returns the classifiers that are trained before mining.

    They are 0 .. U-1, those of rivals, and those of repeated mining.
    """
    rivals = [MC_DROPOUT] if config.quality == MC_DROPOUT else []
    repeats = [
        model
        for repeat in range(1, config.mining_repeats + 1)
        for model in models_of_repeat(config, repeat)
    ]
    return [*range(config.num_models), *rivals, *repeats]


def models_of_repeat(config: Config, repeat: int) -> list[str]:
    """Returns the classifiers of a repetition of mining, counted from 1."""
    return [f"repeat_{repeat}_{model}" for model in range(config.num_models)]


def kind_of(model: int | str) -> str:
    """Returns the kind of stage that trains a classifier.

    What only some way of mining needs is made and remade with the mining.
    """
    return "mine" if isinstance(model, str) else "pretrain"


def check_start(trials: Sequence[Trial]) -> None:
    """Checks the model that training starts from, before there is any work.

    A trial whose models are finished does not need the file any more.

    Args:
        trials: Trials of one experiment.

    Raises:
        PmalError: If the file is needed and cannot be started from, or if it is not the
            one that models which are to stay have started from.
    """
    config = trials[0].config
    if not config.init_weights:
        return
    for trial in trials:
        _check_same_start(trial)
    if any(map(_needs_start, trials)):
        side = config.image_size or None
        check_initial_model(_read_start(config), (side, side, 3))


def run(trial: Trial, model: int | str) -> tuple[list[str], dict[str, Any]]:
    """Trains classifier `model`, with weights, order and dropout of its own seed.

    Args:
        trial: The trial.
        model: Its number u, or the name of one that only some way of mining needs; that
            of `MC_DROPOUT` has dropout on the embedding.
    """
    rate = mc_dropout.RATE if model == MC_DROPOUT else 0.0
    start = _fingerprint_of_start(trial.config)
    classifier = new_classifier(trial, "pretrain", model, embedding_dropout=rate)
    stage = f"pretrain_{model}"
    records = trial.records(stage)
    # Checkpoints go on only from the file that they started from.
    records = dataclasses.replace(records, identity={**records.identity, **start})
    fit_classifier(
        classifier,
        trial.pipeline("pretrain", model),
        trial.recipe,
        seed=trial.seed("dropout", "pretrain", model),
        records=records,
    )
    finish(classifier, records)
    return [f"{stage}/model.keras"], {
        "training": trial.data_record["training"],
        **start,
    }


def is_stale(trial: Trial, marker: Marker) -> bool:
    """Tells whether a model is of other images, or of another start, than the trial's.

    So it is where training anew on others was cut short between two models.
    """
    made, now = marker.facts, trial.data_record
    pairs = [
        (made.get("training"), now.get("training")),
        (made.get(_START), _fingerprint_of_start(trial.config).get(_START)),
    ]
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def new_classifier(
    trial: Trial, *purpose: str | int, embedding_dropout: float = 0.0
) -> keras.Model:
    """Returns a classifier for a purpose, with weights that are not trained here.

    They are fresh; with `--init_weights` only the head is, and all else is the file's,
    also where the optimisation starts from scratch. The classifiers M^1 .. M^U then
    differ by their heads, and by the order of images and dropout in training.

    Raises:
        PmalError: If the file of `--init_weights` cannot be started from.
    """
    keras.utils.set_random_seed(trial.seed("weights", *purpose))
    config = trial.config
    input_shape = trial.train.image.shape[1:]
    num_classes = len(trial.split.known)
    if config.init_weights:
        return classifier_from(
            *(_read_start(config), input_shape, num_classes),
            embedding_dropout=embedding_dropout,
        )
    return build_classifier(
        config.backbone,
        input_shape,
        num_classes,
        width=config.width,
        dropout=config.dropout,
        embedding_dropout=embedding_dropout,
    )


def _needs_start(trial: Trial) -> bool:
    """Tells whether a wanted stage has yet to start from a file."""
    config = trial.config
    stages = {f"pretrain_{model}": kind_of(model) for model in models(config)}
    if config.init == "scratch":
        stages["optimize"] = "optimize"
    return any(
        kind in config.wanted_stages
        and (config.overwrite or not (trial.folder / name / MARKER).exists())
        for name, kind in stages.items()
    )


def _check_same_start(trial: Trial) -> None:
    """Checks that M^1, where it is to stay, has started from the file as it is now.

    Raises:
        PmalError: If it has not. A file that is gone is not another one.
    """
    config = trial.config
    marker = Marker.read(trial.folder / "pretrain_0", "pretrain")
    if marker is None or (config.overwrite and "pretrain" in config.wanted_stages):
        return
    then = marker.facts.get(_START, "")
    now = _fingerprint_of_start(config).get(_START, "")
    if then and now and then != now:
        raise PmalError(
            f"`init_weights` must be the file that {trial.folder} started from. "
            f"Received: {config.init_weights}, which has changed since: SHA-256 "
            f"{then[:12]}... -> {now[:12]}... Put the old file back, choose a new "
            "--experiment, or train anew with --overwrite."
        )


def _fingerprint_of_start(config: Config) -> dict[str, str]:
    """Returns the SHA-256 of the file to start from by its name, if there is one."""
    path = Path(config.init_weights)
    if not config.init_weights or not path.is_file():
        return {}
    return {_START: checksum(path)}


def _read_start(config: Config) -> keras.Model:
    """Reads the model to start from.

    Raises:
        PmalError: If there is none in the file.
    """
    path = Path(config.init_weights)
    if not path.is_file():
        raise PmalError(
            f"`init_weights` must be the file of a Keras model. Received: {path}, "
            "which is not there. Name another, or leave --init_weights away for fresh "
            "weights."
        )
    try:
        return load_model(path)
    except PmalError as error:
        raise PmalError(
            f"{error}. Name another file with --init_weights, or leave the flag away "
            "for fresh weights."
        ) from error
