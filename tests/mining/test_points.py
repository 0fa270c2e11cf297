"""Points whose Euclidean distance is the paper's Mahalanobis distance."""

import gc

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.mining import points
from pmal_tf.mining.distances import pairwise_euclidean
from pmal_tf.mining.points import (
    CentredLogits,
    aligned_zeros,
    as_tensor,
    groups_of_equals,
)
from pmal_tf.mining.spaces import check_spaces
from pmal_tf.runtime.errors import PmalError

EVERY = slice(None)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-2, 1e3)])
def test_points_give_the_mahalanobis_distance(rng, scale, offset):
    embeddings = rng.normal(size=(30, 6), scale=scale) + offset
    kernel = rng.normal(size=(6, 4))
    centred = kernel - kernel.mean(axis=1, keepdims=True)
    expected = cdist(embeddings, embeddings, "mahalanobis", VI=centred @ centred.T)
    found = CentredLogits(embeddings, kernel)(EVERY)
    apart = ~np.eye(30, dtype=bool)
    distances = pairwise_euclidean(found, found).numpy()[apart]
    np.testing.assert_allclose(distances, expected[apart], rtol=1e-8)


def test_parts_are_those_of_the_whole(rng, monkeypatch):
    embeddings, kernel = rng.normal(size=(50, 6)), rng.normal(size=(6, 4))
    whole = CentredLogits(embeddings, kernel)(EVERY)
    np.testing.assert_allclose(whole.mean(axis=0), 0.0, atol=1e-12)
    monkeypatch.setattr(points, "_CHUNK_ROWS", 7)
    in_parts = CentredLogits(embeddings.astype(np.float32), kernel)
    filled = np.full((56, 4), 9.0)
    in_parts.fill(filled)
    np.testing.assert_allclose(filled[:50], whole, atol=1e-6)
    np.testing.assert_array_equal(filled[50:], 9.0)
    chosen = np.array([3, 40, 12])
    np.testing.assert_allclose(in_parts(chosen), whole[chosen], atol=1e-6)


def test_groups_are_of_samples_equal_in_every_space():
    first = np.array([[1.0], [2.0], [1.0], [1.0], [2.0]])
    second = np.array([[5.0], [5.0], [5.0], [6.0], [5.0]])
    leaders, group = groups_of_equals([first, second])
    assert leaders.tolist() == [0, 1, 3]
    assert group.tolist() == [0, 1, 0, 2, 1]


def test_infinite_numbers_of_a_large_array_are_named_by_row(rng, monkeypatch):
    monkeypatch.setattr(points, "_CHUNK_ROWS", 7)
    embeddings = [rng.normal(size=(50, 6)) for _ in range(2)]
    kernels = [rng.normal(size=(6, 4)) for _ in range(2)]
    embeddings[1][[3, 48], 2] = np.nan, -np.inf
    with pytest.raises(PmalError, match=r"space 1, rows \[3, 48\] \(2 in all\)"):
        check_spaces(embeddings, kernels)
    embeddings[1][[3, 48], 2] = 0.0
    kernels[0][1, 1] = np.inf
    with pytest.raises(PmalError, match="space 0, its kernel"):
        check_spaces(embeddings, kernels)


@pytest.mark.parametrize("count", [4097, 4100])
def test_equal_embeddings_have_equal_points_wherever_they_stand(rng, count):
    embeddings = np.repeat(rng.normal(size=(50, 32)), 100, axis=0)[:count]
    embeddings = embeddings[rng.permutation(count)]
    kernel = rng.normal(size=(32, 100))
    filled = np.empty((count, 100))
    CentredLogits(embeddings, kernel).fill(filled)
    expected, _ = groups_of_equals([embeddings])
    leaders, _ = groups_of_equals([filled])
    assert leaders.tolist() == expected.tolist()


def test_groups_do_not_wait_for_numbers_that_equal_nothing():
    leaders, group = groups_of_equals([np.array([[np.nan], [1.0], [np.nan]])])
    assert leaders.tolist() == [0, 1]
    assert group.tolist() == [0, 1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 1000)])
def test_tensors_have_the_numbers_of_their_arrays(rng, shape, dtype):
    array = aligned_zeros(shape, dtype)
    assert array.shape == shape
    assert array.ctypes.data % 64 == 0
    assert not array.any()
    array[:] = expected = rng.normal(size=shape).astype(dtype)
    tensor = as_tensor(array)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    del array
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_a_tensor_takes_no_memory_beside_its_array():
    array = aligned_zeros((4000, 1000), np.float32)
    array[:] = 1.0
    tensor, extra = peak_extra_memory(lambda: as_tensor(array[:3000]))
    assert tensor.shape == (3000, 1000)
    assert extra < 4e6
