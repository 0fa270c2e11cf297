"""Algorithm 1 by hand and against a literal transcription."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist

from pmal_tf.errors import PmalError
from pmal_tf.mining.diversity import diverse_subset, nearest_better_distance


def algorithm_1(logits, robustness, wanted):
    """The paper's listing line by line, for one class (no equal robustness)."""
    distance = cdist(logits, logits)
    count = len(logits)
    spread = [distance.max()] * count
    for i in range(count):
        better = [j for j in range(count) if robustness[j] > robustness[i]]
        if better:
            j = min(better, key=lambda j: distance[i, j])
            spread[i] = distance[i, j]
    order = sorted(range(count), key=lambda i: (-spread[i], -robustness[i]))
    return order[:wanted], spread


def rank_of(robustness):
    rank = np.empty(len(robustness), int)
    rank[np.argsort(-np.asarray(robustness))] = np.arange(len(robustness))
    return rank


def test_algorithm_1_by_hand():
    # On a line at 0, 1, 10, 11, best first: E = (11, 1, 9, 1). The best comes first,
    # then the best of the far group; the rest tie at 1 and go by robustness.
    logits = np.array([[0.0], [1.0], [10.0], [11.0]])
    chosen = diverse_subset(logits, np.arange(4), wanted=4)
    np.testing.assert_array_equal(chosen, [0, 2, 1, 3])
    spread = nearest_better_distance(tf.constant(logits), None)
    np.testing.assert_allclose(spread, [11.0, 1.0, 9.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("wanted", [1, 5, 80])
def test_selection_equals_the_literal_algorithm(rng, wanted):
    logits = rng.normal(size=(80, 4))
    robustness = rng.permutation(80) / 80
    expected, _ = algorithm_1(logits, robustness, wanted)
    chosen = diverse_subset(logits, rank_of(robustness), wanted)
    np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize("block_rows", [1, 13, 79, 80, 500])
def test_blocks_do_not_change_the_selection(rng, block_rows):
    logits, rank = rng.normal(size=(80, 4)), rng.permutation(80)
    np.testing.assert_array_equal(
        diverse_subset(logits, rank, 20, block_rows=block_rows),
        diverse_subset(logits, rank, 20),
    )


def test_selection_does_not_depend_on_the_order_of_arrays(rng):
    logits, rank = rng.normal(size=(50, 3)), rng.permutation(50)
    shuffle = rng.permutation(50)
    there = diverse_subset(logits[shuffle], rank[shuffle], 10)
    np.testing.assert_array_equal(shuffle[there], diverse_subset(logits, rank, 10))


def test_identical_candidates_are_chosen_last():
    logits = np.array([[0.0], [0.0], [0.0], [5.0]])
    chosen = diverse_subset(logits, np.array([0, 1, 2, 3]), wanted=2)
    np.testing.assert_array_equal(chosen, [0, 3])


def test_all_equal_candidates_go_by_rank():
    # Enough of them that a sort which is not stable would show.
    rank = np.random.default_rng(0).permutation(200)
    chosen = diverse_subset(np.zeros((200, 2)), rank, wanted=50)
    np.testing.assert_array_equal(rank[chosen], np.arange(50))


def test_fewer_candidates_than_wanted_are_all_taken():
    assert len(diverse_subset(np.eye(3), np.arange(3), wanted=10)) == 3
    assert len(diverse_subset(np.eye(1), np.arange(1), wanted=10)) == 1


def test_nothing_to_choose_is_an_error():
    with pytest.raises(PmalError, match="T=0"):
        diverse_subset(np.eye(3), np.arange(3), wanted=0)
    with pytest.raises(PmalError, match="0 candidates"):
        diverse_subset(np.zeros((0, 3)), np.arange(0), wanted=3)
