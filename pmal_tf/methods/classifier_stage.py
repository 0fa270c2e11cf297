"""The stages that train a softmax classifier: M^1 .. M^U, and one trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from pmal_tf.methods.loading import load_model
from pmal_tf.methods.trial import Trial
from pmal_tf.runtime.stage import Stage, Work
from pmal_tf.training.fit import StageRecords, fit_classifier


def classifier_stage(
    trial: Trial,
    model: int | str,
    *,
    name: str = "",
    kind: str = "pretrain",
    embedding_dropout: float = 0.0,
) -> Stage:
    """Returns the stage `pretrain_<model>`, or of another `name`; `kind` in `--stages`.

    By the model's number u, or name, its weights, order and dropout are drawn.
    `embedding_dropout` is the dropout rate of the embedding before the head.
    """
    purpose, reads = ("pretrain", model), {"embedding_dropout": embedding_dropout}
    return _stage(
        trial,
        name or f"pretrain_{model}",
        lambda _: trial.new_classifier(*purpose, **reads),
        *purpose,
        kind=kind,
        reads=reads,
    )


def trained_on_stage(trial: Trial, name: str, start: str, *purpose: str) -> Stage:
    """Returns the stage that trains another one's classifier on with the plain loss.

    It goes on from the model of the stage `start`, in the order and with the
    augmentation and dropout of a purpose.
    """

    def begin(work: Work) -> keras.Model:
        return load_model(work.path_of(f"{start}/model.keras"))

    return _stage(trial.continued, name, begin, *purpose, needs=(start,))


def _stage(
    trial: Trial,
    name: str,
    begin: Callable[[Work], keras.Model],
    *purpose: str | int,
    **declared: Any,
) -> Stage:
    """Returns the stage that trains the classifier that it begins with."""

    def train(work: Work, records: StageRecords) -> keras.Model:
        classifier, seed = begin(work), trial.seed("dropout", *purpose)
        pipeline = trial.pipeline(*purpose)
        fit_classifier(classifier, pipeline, trial.recipe, seed=seed, records=records)
        return classifier

    return trial.training_stage(name, train, **declared)
