"""What TensorBoard shows of an evaluated trial, beside the curves of its training."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmal_tf.data.hashing import hash_ids
from pmal_tf.methods.scorer import Scorer
from pmal_tf.methods.trial import Trial
from pmal_tf.results.evaluate import ImageScores
from pmal_tf.results.scores.registry import scores_in
from pmal_tf.results.tensorboard.hparams import write_hparams
from pmal_tf.results.tensorboard.projector import write_projector
from pmal_tf.runtime.settings import settings_in
from pmal_tf.runtime.stage import TENSORBOARD, Work
from pmal_tf.workflow.config import Config

# Settings of every run that sweeps vary, columns of the HParams page beside the
# method's own.
_SHOWN_SETTINGS = ("method", "epochs", "learning_rate", "seed")
_MOST_TEST_IMAGES = 1500


def write_embeddings(
    trial: Trial, work: Work, scores: ImageScores, scorer: Scorer
) -> None:
    """Writes test images, and prototypes where there are such, for the projector."""
    rank = hash_ids(trial.images.test.example_id, "projector", 0)
    shown = np.sort(np.argsort(rank, kind="stable")[:_MOST_TEST_IMAGES])
    images, names = trial.images.test.take(shown), np.array(trial.class_names)
    kind = [*np.where(images.is_unknown, "unknown", "known")]
    class_name = [*np.where(images.is_unknown, "unknown", names[images.label])]
    embedding, pixels = [scores.kept["embedding"][shown]], [np.asarray(images.image[:])]
    example_id, count = [*images.example_id], 0
    prototypes, own = scorer.prototypes, scorer.prototype_embeddings()
    if prototypes is not None and own is not None:
        class_index, _ = np.nonzero(prototypes.mask)
        count = len(class_index)
        embedding.append(own)
        pixels.append(prototypes.image[prototypes.mask])
        kind += ["prototype"] * count
        class_name += [*names[class_index]]
        example_id += [*prototypes.example_id[prototypes.mask]]
    write_projector(
        work.shown / TENSORBOARD / "projector",
        embedding=np.concatenate(embedding),
        image=np.concatenate(pixels),
        kind=kind,
        class_name=class_name,
        example_id=example_id,
        most=_MOST_TEST_IMAGES + count,
    )


def write_hparams_row(
    config: Config, trial: Trial, work: Work, metrics: dict[str, Any]
) -> None:
    """Writes the trial's row of the HParams page, with its `metrics`."""
    results = {"result/acc": metrics["acc"]}
    results |= {
        f"result/auroc_{score.field}": metrics[score.field]["auroc"]
        for score in scores_in(metrics)
        if metrics[score.field] is not None
    }
    own = settings_in(config.methods[config.run.method])
    names = (*(field.name for field in own), *_SHOWN_SETTINGS)
    write_hparams(
        work.shown / TENSORBOARD / "hparams",
        {**{name: getattr(config, name) for name in names}, "trial": trial.number},
        results,
        name=f"{config.run.experiment}/trial_{trial.number}",
    )
