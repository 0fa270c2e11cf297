"""Optimising the embedding against the mined prototypes, Eq. 10 (Section 5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.data.batches.pipeline import HostReplicas, TrainingPipeline
from pmal_tf.methods.loading import load_model
from pmal_tf.methods.pmal.mine_stages import MINING
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import EVERY_STEP, Prototypes, PrototypeSchedule
from pmal_tf.methods.pmal.settings import MODEL_SETTINGS, PMALSettings
from pmal_tf.methods.trial import Trial
from pmal_tf.runtime import distribution
from pmal_tf.runtime.settings import read_settings
from pmal_tf.runtime.stage import Stage, Work
from pmal_tf.training.fit import StageRecords, batches_of, fit
from pmal_tf.training.recipe import Recipe

# Images of held-out classes and of others that are looked at after each epoch.
_MOST_VALIDATED = 2000


def optimize_stage(trial: Trial, settings: PMALSettings) -> Stage:
    """Returns the stage that trains a `PMALModel`, from M^1 or from scratch."""
    if settings.init == "pretrained":
        trial = trial.continued
    schedule = PrototypeSchedule.of_mode(
        settings.prototype_mode, settings.prototype_every, settings.prototype_slice
    )

    def train(work: Work, records: StageRecords) -> PMALModel:
        if settings.init == "pretrained":
            classifier = load_model(work.path_of("pretrain_0/model.keras"))
        else:
            classifier = trial.new_classifier("optimize")
        prototypes = Prototypes.load(work.path_of(f"{MINING}/prototypes.npz"))
        model = PMALModel(
            embedding_and_logits(classifier),
            prototypes.mask.shape[1],
            label_smoothing=trial.recipe.label_smoothing,
            **{name: getattr(settings, name) for name in MODEL_SETTINGS},
        )
        fit_pmal(
            model,
            trial.pipeline("optimize"),
            prototypes,
            trial.recipe,
            seed=trial.seed("dropout", "optimize"),
            schedule=schedule,
            measure=_held_out_auroc(trial, model, prototypes),
            records=records,
        )
        return model

    return trial.training_stage(
        "optimize",
        train,
        needs=("pretrain_0", MINING),
        reads=read_settings(
            settings, *MODEL_SETTINGS, "prototype_every", "prototype_slice", "init"
        ),
        inputs=("test",) if trial.data.tuning_held_out else (),
    )


def fit_pmal(
    model: PMALModel,
    pipeline: TrainingPipeline,
    prototypes: Prototypes,
    recipe: Recipe,
    *,
    seed: int,
    schedule: PrototypeSchedule = EVERY_STEP,
    measure: Callable[[], dict[str, float]] | None = None,
    records: StageRecords | None = None,
) -> None:
    """Optimises a model in place, and embeds its prototypes with the final weights.

    They are among the training images; by `schedule` they pass through the network. The
    `seed` is that of dropout; `measure` returns numbers to record beside the losses
    after each epoch.

    Raises:
        PmalError: If the prototypes are of other images.
        TrainingDivergedError: If the loss or a weight stops being finite.
    """
    # Those that wait for their turn must stand somewhere in the meantime; a run that
    # goes on has them in its checkpoint.
    model.refresh_prototypes(prototypes.image, prototypes.mask)

    def batches(step: int, share: HostReplicas) -> tf.data.Dataset:
        return prototypes.attach(
            batches_of(pipeline, recipe, step, share),
            pipeline.example_id,
            schedule,
            share=share,
            first_element=step * share.local,
        )

    fit(
        model,
        pipeline,
        recipe,
        seed=seed,
        records=records,
        batches=batches,
        measure=measure,
    )
    model.refresh_prototypes(prototypes.image, prototypes.mask)


def _held_out_auroc(
    trial: Trial, model: PMALModel, prototypes: Prototypes
) -> Callable[[], dict[str, float]] | None:
    """Returns how well a model that is being trained rejects held-out known classes.

    None where none are held out: the test's unknown classes are not looked at.
    """
    if not trial.data.tuning_held_out or distribution.several_hosts():
        return None
    test = trial.images.test
    rng = np.random.default_rng(trial.seed("validation"))
    images = test.take(np.sort(rng.permutation(len(test))[:_MOST_VALIDATED]))

    def measure() -> dict[str, float]:
        distance = model.distance_to(images.image, prototypes.image, prototypes.mask)
        # A network on its way may overflow; its training goes on or ends elsewhere.
        score = np.nan_to_num(distance.min(axis=1), nan=2.0)
        return {"held_out_auroc": float(roc_auc_score(images.is_unknown, score))}

    return measure
