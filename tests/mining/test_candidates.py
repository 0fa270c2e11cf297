"""Candidate selection by hand and against a loop."""

import numpy as np

from pmal_tf.mining.candidates import (
    matched_candidates,
    quality_rank,
    select_candidates,
)


def select(robustness, class_index, epsilon, at_least):
    exponent = -np.log(np.asarray(robustness, float))
    ids = np.array([f"{n:04d}" for n in range(len(exponent))])
    class_index = np.asarray(class_index)
    return select_candidates(
        exponent,
        class_index,
        quality_rank(exponent, ids),
        epsilon=epsilon,
        at_least=at_least,
    )


def test_threshold_is_relative_to_the_class_s_best():
    # Class 0: best 0.8, threshold 0.56. Class 1: best 0.4, threshold 0.28.
    result = select(
        [0.8, 0.57, 0.55, 0.4, 0.29, 0.27], [0, 0, 0, 1, 1, 1], epsilon=0.7, at_least=1
    )
    np.testing.assert_array_equal(result.mask, [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(result.count, [2, 2])
    assert not result.relaxed.any()


def test_too_few_candidates_are_filled_with_the_next_best():
    result = select(
        [0.9, 0.1, 0.3, 0.2, 0.5, 0.49], [0, 0, 0, 0, 1, 1], epsilon=0.9, at_least=3
    )
    np.testing.assert_array_equal(result.mask, [1, 0, 1, 1, 1, 1])
    # Class 1 has two images, and both passed: nothing was relaxed.
    np.testing.assert_array_equal(result.relaxed, [True, False])
    np.testing.assert_array_equal(result.count, [3, 2])


def test_ends_of_epsilon():
    best_only = select([0.5, 0.5, 0.4], [0, 0, 0], epsilon=1.0, at_least=1)
    np.testing.assert_array_equal(best_only.mask, [1, 1, 0])
    all_of_them = select([0.5, 0.5, 0.4], [0, 0, 0], epsilon=1e-9, at_least=1)
    np.testing.assert_array_equal(all_of_them.mask, [1, 1, 1])


def test_candidates_equal_a_loop(rng):
    robustness = rng.uniform(0.01, 1, size=300)
    class_index = rng.integers(0, 7, size=300)
    result = select(robustness, class_index, epsilon=0.8, at_least=10)
    for k in range(7):
        members = np.flatnonzero(class_index == k)
        ordered = sorted(members, key=lambda i: -robustness[i])
        passed = [i for i in ordered if robustness[i] >= 0.8 * robustness[ordered[0]]]
        chosen = passed if len(passed) >= 10 else ordered[:10]
        assert set(members[result.mask[members]]) == set(chosen)
        assert result.relaxed[k] == (len(passed) < min(10, len(members)))


def test_rank_breaks_ties_by_id_whatever_the_order_of_arrays():
    exponent = np.array([1.0, 0.5, 1.0, 0.5])
    ids = np.array(["d", "c", "a", "b"])
    np.testing.assert_array_equal(quality_rank(exponent, ids), [3, 1, 2, 0])


def test_matched_candidates_are_the_best_of_another_quality(rng):
    class_index = rng.integers(0, 3, size=60)
    model = select(rng.uniform(0.3, 1, size=60), class_index, 0.7, at_least=2)
    rank = rng.permutation(60)
    result = matched_candidates(model, rank, class_index)
    for k in range(3):
        members = np.flatnonzero(class_index == k)
        ordered = members[np.argsort(rank[members])]
        expected = set(ordered[: model.count[k]].tolist())
        assert set(members[result.mask[members]].tolist()) == expected
    np.testing.assert_array_equal(result.count, model.count)
