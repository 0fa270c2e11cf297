"""What TensorBoard shows of an evaluated trial, beside the curves of its training."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmal_tf.config import Config
from pmal_tf.data.hashing import hash_ids
from pmal_tf.data.images import LabelledImages
from pmal_tf.evaluation.evaluate import ImageScores
from pmal_tf.evaluation.scores import RULES
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.reports.hparams import write_hparams
from pmal_tf.reports.projector import write_projector
from pmal_tf.trial import Trial

# Settings that sweeps and ablations vary, the columns of the HParams page.
SHOWN_SETTINGS = (
    *("prototypes_per_class", "epsilon", "num_models", "margin", "prototype_weight"),
    *("quality", "diversity", "set_distance", "prototype_mode", "init"),
    *("epochs", "learning_rate", "seed"),
)
_MOST_TEST_IMAGES = 1500


def write_embeddings(
    trial: Trial, scores: ImageScores, prototypes: Prototypes, bank: np.ndarray
) -> None:
    """Writes test images and prototypes for the projector page.

    Args:
        trial: The trial.
        scores: PMAL's scores of the test images.
        prototypes: The prototypes.
        bank: [K, T, D] their embeddings.
    """
    shown, names = _chosen(trial.test), np.array(trial.split.known)
    images = trial.test.take(shown)
    class_index, _ = np.nonzero(prototypes.mask)
    kind = np.where(images.is_unknown, "unknown", "known")
    class_name = np.where(images.is_unknown, "unknown", names[images.label])
    mask = prototypes.mask
    write_projector(
        trial.folder / "tensorboard" / "projector",
        embedding=np.concatenate([scores.embedding[shown], bank[mask]]),
        image=np.concatenate([np.asarray(images.image[:]), prototypes.image[mask]]),
        kind=[*kind, *["prototype"] * len(class_index)],
        class_name=[*class_name, *names[class_index]],
        example_id=[*images.example_id, *prototypes.example_id[mask]],
        most=_MOST_TEST_IMAGES + len(class_index),
    )


def write_settings_and_results(trial: Trial, metrics: dict[str, Any]) -> None:
    """Writes the trial's row of the HParams page.

    Args:
        trial: The trial.
        metrics: PMAL's entry of `result.json`.
    """
    config: Config = trial.config
    results = {"result/acc": metrics["acc"]}
    results |= {
        f"result/auroc_{rule}": metrics[rule]["auroc"]
        for rule in RULES
        if metrics[rule] is not None
    }
    settings = {name: getattr(config, name) for name in SHOWN_SETTINGS}
    write_hparams(
        trial.folder / "tensorboard" / "hparams",
        {**settings, "trial": trial.number},
        results,
        name=f"{config.experiment}/trial_{trial.number}",
    )


def _chosen(test: LabelledImages) -> np.ndarray:
    """Returns positions of the test images that are shown, in order."""
    rank = hash_ids(test.example_id, "projector", 0)
    return np.sort(np.argsort(rank, kind="stable")[:_MOST_TEST_IMAGES])
