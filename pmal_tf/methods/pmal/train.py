"""Optimising the embedding against fixed prototypes, Eq. 10."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.data.batches.pipeline import Share, TrainingPipeline
from pmal_tf.methods.pmal.feed import EVERY_STEP, PrototypeFeed
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.training.fit import StageRecords, batches_of, fit
from pmal_tf.training.recipe import Recipe


def build_pmal(
    classifier: keras.Model,
    prototypes: Prototypes,
    settings: PMALSettings,
    recipe: Recipe,
) -> PMALModel:
    """Returns a model over a classifier's layers, which it shares."""
    return PMALModel(
        embedding_and_logits(classifier),
        prototypes.mask.shape[1],
        margin=settings.margin,
        prototype_weight=settings.prototype_weight,
        prototype_mode=settings.prototype_mode,
        prototype_gradient=settings.prototype_gradient,
        label_smoothing=recipe.label_smoothing,
        set_distance=settings.set_distance,
    )


def feed_of(settings: PMALSettings) -> PrototypeFeed:
    """Returns which prototypes pass through the network in which step."""
    return PrototypeFeed.of_mode(
        settings.prototype_mode, settings.prototype_every, settings.prototype_slice
    )


def fit_pmal(
    model: PMALModel,
    pipeline: TrainingPipeline,
    prototypes: Prototypes,
    recipe: Recipe,
    *,
    seed: int,
    feed: PrototypeFeed = EVERY_STEP,
    measure: Callable[[], dict[str, float]] | None = None,
    records: StageRecords | None = None,
) -> None:
    """Optimises the embedding against fixed prototypes, Eq. 10, and fills the bank.

    Args:
        model: The model; trained in place.
        pipeline: The training images.
        prototypes: The mined prototypes, images of `pipeline`.
        recipe: Optimiser, schedule and budget.
        seed: Seed of dropout.
        feed: Which prototypes pass through the network in which step.
        measure: Returns numbers to record beside the losses after each epoch.
        records: Where to keep checkpoints and metrics; None keeps none.

    Raises:
        PmalError: If the prototypes are of other classes or images.
        TrainingDivergedError: If the loss or a weight stops being finite.
    """
    prototypes.check_classes(pipeline.example_id, pipeline.label)
    # Those that wait for their turn must stand somewhere in the meantime; a run that
    # goes on has them in its checkpoint.
    model.refresh_prototypes(prototypes.image, prototypes.mask)

    def batches(step: int, share: Share) -> tf.data.Dataset:
        return prototypes.attach(
            batches_of(pipeline, recipe, step, share),
            pipeline.example_id,
            dataclasses.replace(feed, **vars(share)),
            first_element=step * share.local,
        )

    fit(
        *(model, pipeline, recipe),
        seed=seed,
        records=records,
        batches=batches,
        measure=measure,
    )
    model.refresh_prototypes(prototypes.image, prototypes.mask)
