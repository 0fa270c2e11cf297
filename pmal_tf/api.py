"""PMAL from plain arrays: train classifiers, mine prototypes, optimise, score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.classifier import (
    build_classifier,
    embedding_and_logits,
    head_weights,
)
from pmal_tf.data.images import check_arrays
from pmal_tf.data.pipeline import TrainingPipeline
from pmal_tf.errors import PmalError, first_line
from pmal_tf.inference import forward_in_batches
from pmal_tf.mining.feed import PrototypeFeed
from pmal_tf.mining.mine import MiningSettings, mine
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.mining.spaces import Space
from pmal_tf.seeds import derive_seed
from pmal_tf.training.fit import fit_classifier, fit_pmal
from pmal_tf.training.model import PMALModel
from pmal_tf.training.recipe import Recipe
from pmal_tf.types import Images


def as_arrays(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Collects a `tf.data` set of single (image, label) pairs into arrays.

    Mining compares every image with every other, so the set must be finite.
    """
    pairs = list(dataset.as_numpy_iterator())
    images = np.stack([image for image, _ in pairs])
    return images, np.array([label for _, label in pairs])


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    recipe: Recipe,
    backbone: str = "oscri",
    width: float = 1.0,
    seed: int = 0,
    augment: bool = False,
) -> keras.Model:
    """Trains a softmax classifier; mining needs two, from different seeds.

    Args:
        images: [N, H, W, 3] on the 0-255 scale.
        labels: [N] integers, every class from 0 to K - 1.
        recipe: Optimiser, schedule and budget.
        backbone: A name in `pmal_tf.backbones.classifier.BACKBONES`.
        width: The backbone's width multiplier.
        seed: Seed of weights, order, augmentation and dropout.
        augment: Whether to shift and mirror.

    Returns:
        A functional model from images to logits.

    Raises:
        PmalError: If images and labels do not fit together.
    """
    check_arrays(images, labels)
    keras.utils.set_random_seed(derive_seed(seed, "weights"))
    classifier = build_classifier(
        backbone, images.shape[1:], int(labels.max()) + 1, width=width
    )
    pipeline = _pipeline(images, labels, recipe, seed, augment)
    fit_classifier(classifier, pipeline, recipe, seed=derive_seed(seed, "dropout"))
    return classifier


def mine_prototypes(
    classifiers: Sequence[keras.Model],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    prototypes_per_class: int = 10,
    epsilon: float = 0.7,
    quality: str = "robustness",
    diversity: str = "algorithm1",
    seed: int = 0,
) -> Prototypes:
    """Mines prototypes among the training images (Section 4).

    Args:
        classifiers: At least two models trained on the images.
        images: [N, H, W, 3].
        labels: [N].
        prototypes_per_class: T.
        epsilon: Candidate threshold in (0, 1].
        quality: `robustness`, `probability`, `deep_ensembles` or `none`.
        diversity: `algorithm1`, `random`, `kmeans` or `none`.
        seed: Seed of filters that draw.

    Raises:
        PmalError: If an argument does not fit.
    """
    check_arrays(images, labels)
    ids = _position_ids(len(labels))
    result = mine(
        [embed(classifier, images) for classifier in classifiers],
        labels,
        ids,
        class_names=[str(k) for k in range(int(labels.max()) + 1)],
        settings=MiningSettings(
            epsilon=epsilon,
            prototypes_per_class=prototypes_per_class,
            quality=quality,
            diversity=diversity,
        ),
        seed=seed,
    )
    return Prototypes.from_selection(
        result.selection, images, ids, result.robustness.robustness
    )


def train_pmal(
    classifier: keras.Model,
    prototypes: Prototypes,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    recipe: Recipe,
    margin: float = 0.5,
    prototype_weight: float = 1.0,
    prototype_mode: str = "joint",
    prototype_every: int = 1,
    prototype_slice: int = 6,
    seed: int = 0,
    augment: bool = False,
) -> PMALModel:
    """Optimises an embedding against fixed prototypes (Section 5).

    Args:
        classifier: Where to start from; it is copied, not changed.
        prototypes: From `mine_prototypes` on the same images.
        images: [N, H, W, 3].
        labels: [N].
        recipe: Optimiser, schedule and budget.
        margin: delta of Eq. 9.
        prototype_weight: lambda_p of Eq. 10.
        prototype_mode: `joint`, `inference` or `bank`; see `PMALModel`.
        prototype_every: Steps between two embeddings of the prototypes, of `inference`.
        prototype_slice: Prototypes that pass with every batch, of `bank`.
        seed: Seed of order, augmentation and dropout.
        augment: Whether to shift and mirror.

    Raises:
        PmalError: If an argument does not fit.
    """
    check_arrays(images, labels)
    start = keras.models.clone_model(classifier)
    start.set_weights(classifier.get_weights())
    model = PMALModel(
        embedding_and_logits(start),
        prototypes.mask.shape[1],
        margin=margin,
        prototype_weight=prototype_weight,
        prototype_mode=prototype_mode,
        label_smoothing=recipe.label_smoothing,
    )
    pipeline = _pipeline(images, labels, recipe, seed, augment)
    feed = PrototypeFeed.of_mode(prototype_mode, prototype_every, prototype_slice)
    fit_pmal(
        *(model, pipeline, prototypes, recipe),
        seed=derive_seed(seed, "dropout"),
        feed=feed,
    )
    return model


def embed(
    classifier: keras.Model,
    images: Images,
    *,
    path: Path | None = None,
    jit: bool = False,
) -> Space:
    """Embeds images in inference mode, in one pass.

    Args:
        classifier: A functional model from images to logits.
        images: [N, H, W, 3].
        path: `.npy` file to write the embeddings to, batch by batch, as float32; they
            are memory-mapped then. None keeps them in memory.
        jit: Whether to compile with XLA.

    Raises:
        PmalError: If the classifier does not end in a linear layer, or the disk has no
            room for the file.
    """
    network = embedding_and_logits(classifier)

    def forward(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding = network(batch, training=False)["embedding"]
        return {"embedding": tf.cast(embedding, tf.float32)}

    def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if path is None:
            return np.empty(shape, dtype)
        return _new_file(path, shape, dtype)

    outputs = forward_in_batches(forward, images, jit=jit, allocate=allocate)
    return Space(outputs["embedding"], *head_weights(classifier))


def _new_file(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns a memory-mapped `.npy` file, all of which is on the disk.

    A sparse file on a disk that fills up would kill the process when it is written to.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink()
        raise PmalError(
            f"The disk must have room for {array.nbytes / 2**20:,.0f} MiB of "
            f"embeddings. Received: {path}: {error.strerror}. Make room and run the "
            "same command again; finished stages are skipped."
        ) from error
    return array


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` file of this package, or any other.

    Raises:
        PmalError: If the file is missing or not a Keras model.
    """
    try:
        return keras.models.load_model(path)
    except Exception as error:  # zipfile, h5py, json and Keras each have their own.
        raise PmalError(
            "A model file must be a complete `.keras` archive. Received: "
            f"{str(path)!r}: {first_line(error)}"
        ) from error


def _pipeline(
    images: np.ndarray, labels: np.ndarray, recipe: Recipe, seed: int, augment: bool
) -> TrainingPipeline:
    """Returns the pipeline over arrays, whose ids are their positions."""
    return TrainingPipeline(
        image=images,
        label=labels,
        example_id=_position_ids(len(labels)),
        batch_size=recipe.batch_size,
        seed=derive_seed(seed, "order"),
        augment=augment,
    )


def _position_ids(count: int) -> np.ndarray:
    """Returns positions as strings, the ids of arrays that bring none."""
    return np.arange(count).astype(str)
