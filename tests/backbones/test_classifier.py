"""Classifiers over a backbone: dropout on the embedding, and other precisions."""

import keras
import numpy as np
import pytest

from pmal_tf.api import embed
from pmal_tf.backbones.classifier import (
    build_classifier,
    embedding_and_logits,
    linear_head,
    with_precision,
)
from pmal_tf.errors import PmalError


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return build_classifier("oscri", (8, 8, 3), 3, width=0.15, dropout=0.0)


def test_dropout_on_the_embedding_is_for_training_only(images):
    model = build_classifier(
        *("oscri", (8, 8, 3), 3), width=0.15, dropout=0.0, embedding_dropout=0.5
    )
    network = embedding_and_logits(model)
    trained = network(images, training=True)["embedding"].numpy()
    alone = network(images, training=False)["embedding"].numpy()
    head = linear_head(model)
    np.testing.assert_allclose(
        network(images, training=False)["logits"],
        alone @ head.kernel.numpy() + head.bias.numpy(),
        atol=1e-5,
    )
    # The embedding is what the head gets: half of it dropped, inference whole.
    assert 0.3 < (trained == 0).mean() < 0.8
    assert (alone == 0).mean() < 0.3


def test_another_precision_has_the_same_weights_and_about_the_same_embeddings(
    classifier, images
):
    half = with_precision(classifier, "mixed_bfloat16")
    for ours, theirs in zip(half.weights, classifier.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert half.layers[2].compute_dtype == "bfloat16"
    assert linear_head(half).compute_dtype == "float32"
    full = embed(classifier, images).embedding
    rounded = embed(half, images).embedding
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, full)
    np.testing.assert_allclose(rounded, full, atol=0.05 * np.abs(full).max())


def test_embeddings_on_disk_are_those_in_memory(classifier, images, tmp_path):
    path = tmp_path / "embedding.npy"
    written = embed(classifier, images, path=path)
    in_memory = embed(classifier, images)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), in_memory.embedding)
    np.testing.assert_array_equal(written.kernel, in_memory.kernel)
    assert written.bias.shape == (3,)


def test_compiled_embeddings_are_the_same(classifier, images):
    plain, compiled = (
        embed(classifier, images, jit=jit).embedding for jit in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def test_a_full_disk_is_told_before_it_is_written_to(
    classifier, images, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(PmalError, match=r"MiB of embeddings.*No space left.*Make room"):
        embed(classifier, images, path=tmp_path / "embedding.npy")
    assert not list(tmp_path.iterdir())
