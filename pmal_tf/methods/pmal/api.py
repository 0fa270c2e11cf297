"""PMAL from plain arrays: train classifiers, mine prototypes, optimise, score."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.build import build_network
from pmal_tf.backbones.classifier import embedding_and_logits, head_weights
from pmal_tf.backbones.inference import forward_in_batches
from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.images import check_arrays
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.pmal.settings import OPTIMISATION, PMALSettings
from pmal_tf.methods.pmal.train import build_pmal, feed_of, fit_pmal
from pmal_tf.mining.mine import mine
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.mining.spaces import Space
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.seeds import derive_seed
from pmal_tf.runtime.types import Images
from pmal_tf.training.fit import fit_classifier
from pmal_tf.training.recipe import Recipe


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
    seed: int = 0,
    augment: bool = False,
    **network: Any,
) -> keras.Model:
    """Trains a softmax classifier; mining needs two, from different seeds.

    Args:
        images: [N, H, W, 3] on the 0-255 scale.
        labels: [N] integers, every class from 0 to K - 1.
        recipe: Optimiser, schedule and budget.
        seed: Seed of weights, order, augmentation and dropout.
        augment: Whether to shift and mirror.
        **network: Fields of `NetworkSettings`: `backbone`, `width`, `dropout`, or
            `init_weights`.

    Returns:
        A functional model from images to logits.

    Raises:
        PmalError: If images and labels do not fit together, or a setting is not one.
    """
    check_arrays(images, labels)
    _check_names(network, ("backbone", "width", "dropout", "init_weights"))
    keras.utils.set_random_seed(derive_seed(seed, "weights"))
    classifier = build_network(
        NetworkSettings(**network), images.shape[1:], int(labels.max()) + 1
    )
    pipeline = _pipeline(images, labels, recipe, seed, augment)
    fit_classifier(classifier, pipeline, recipe, seed=derive_seed(seed, "dropout"))
    return classifier


def mine_prototypes(
    classifiers: Sequence[keras.Model],
    images: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int = 0,
    **settings: Any,
) -> Prototypes:
    """Mines prototypes among the training images (Section 4).

    Args:
        classifiers: At least two models trained on the images.
        images: [N, H, W, 3].
        labels: [N].
        seed: Seed of filters that draw.
        **settings: Fields of `MiningSettings`, e.g. `prototypes_per_class`, `epsilon`;
            a quality of `mc_dropout` needs a run.

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
        settings=MiningSettings(**settings),
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
    seed: int = 0,
    augment: bool = False,
    **settings: Any,
) -> PMALModel:
    """Optimises an embedding against fixed prototypes (Section 5).

    Args:
        classifier: Where to start from; it is copied, not changed.
        prototypes: From `mine_prototypes` on the same images.
        images: [N, H, W, 3].
        labels: [N].
        recipe: Optimiser, schedule and budget.
        seed: Seed of order, augmentation and dropout.
        augment: Whether to shift and mirror.
        **settings: `margin`, `prototype_weight`, `set_distance`, `prototype_mode`,
            `prototype_gradient`, `prototype_every`, `prototype_slice`; see
            `PMALSettings`.

    Raises:
        PmalError: If an argument does not fit.
    """
    check_arrays(images, labels)
    start = keras.models.clone_model(classifier)
    start.set_weights(classifier.get_weights())
    _check_names(settings, OPTIMISATION)
    chosen = PMALSettings(**settings)
    model = build_pmal(start, prototypes, chosen, recipe)
    fit_pmal(
        *(model, _pipeline(images, labels, recipe, seed, augment), prototypes, recipe),
        seed=derive_seed(seed, "dropout"),
        feed=feed_of(chosen),
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


def _check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Checks that settings are of those that a function reads.

    Raises:
        PmalError: If one is not: it would be ignored.
    """
    strange = [name for name in given if name not in known]
    if strange:
        raise PmalError(
            f"Settings here are {', '.join(known)}. Received: {', '.join(strange)}"
        )


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
