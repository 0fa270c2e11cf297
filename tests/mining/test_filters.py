"""Set filters: Algorithm 1 by hand and against a literal transcription, and others."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pmal_tf.mining import coverage
from pmal_tf.mining import filters as module
from pmal_tf.mining.filters import (
    FILTERS,
    nearest_better_distances,
)
from pmal_tf.mining.spaces import Space


def candidates_of(embedding, class_index, rank, mask=None):
    """Candidates, and a space whose kernel keeps Euclidean distances."""
    embedding, class_index = np.asarray(embedding, float), np.asarray(class_index)
    width = embedding.shape[1]
    # A column of zeros beside it makes the kernel's centring harmless: the centred
    # kernel is an isometry up to what all classes share, which is taken off.
    kernel = np.concatenate([np.eye(width), -np.eye(width)], axis=1) / np.sqrt(2)
    space = Space(embedding, kernel, np.zeros(2 * width))
    mask = np.ones(len(embedding), bool) if mask is None else mask
    order = [position for position in np.argsort(rank) if mask[position]]
    return [
        np.array([position for position in order if class_index[position] == label])
        for label in range(class_index.max() + 1)
    ], space


def algorithm_1(embedding, rank, wanted):
    """The paper's listing line by line, for one class."""
    distance = cdist(embedding, embedding)
    count = len(embedding)
    spread = [distance.max()] * count
    for i in range(count):
        better = [j for j in range(count) if rank[j] < rank[i]]
        if better:
            j = min(better, key=lambda j: distance[i, j])
            spread[i] = distance[i, j]
    order = sorted(range(count), key=lambda i: (-spread[i], rank[i]))
    return order[:wanted]


def selected(name, candidates, wanted, seed=0):
    return [own.tolist() for own in FILTERS[name](*candidates, wanted, seed)]


def test_algorithm_1_by_hand():
    # On a line at 0, 1, 10, 11, best first: E = (11, 1, 9, 1). The best comes first,
    # then the best of the far group; the rest tie at 1 and go by rank.
    candidates = candidates_of([[0.0], [1.0], [10.0], [11.0]], [0] * 4, range(4))
    (spread,) = nearest_better_distances(*candidates)
    np.testing.assert_allclose(spread, [11.0, 1.0, 9.0, 1.0], atol=1e-6)
    assert selected("algorithm1", candidates, 4) == [[0, 2, 1, 3]]


@pytest.mark.parametrize("wanted", [1, 5, 80])
@pytest.mark.parametrize(("block_rows", "group_rows"), [(256, 4096), (7, 20), (1, 1)])
def test_selection_equals_the_literal_algorithm(
    rng, wanted, block_rows, group_rows, monkeypatch
):
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    monkeypatch.setattr(module, "_GROUP_ROWS", group_rows)
    # Classes of 60, 25, 1 and 14 candidates among 150 images, in no order.
    class_index = rng.permutation(np.repeat([0, 1, 2, 3], [80, 40, 3, 27]))
    embedding, rank = rng.normal(size=(150, 4)), rng.permutation(150)
    mask = np.zeros(150, bool)
    for label, count in enumerate([60, 25, 1, 14]):
        mask[np.flatnonzero(class_index == label)[:count]] = True
    candidates = candidates_of(embedding, class_index, rank, mask)
    chosen = selected("algorithm1", candidates, wanted)
    for label in range(4):
        pool = np.flatnonzero(mask & (class_index == label))
        expected = algorithm_1(embedding[pool], rank[pool], wanted)
        assert chosen[label] == pool[expected].tolist()


def test_identical_candidates_are_chosen_last():
    candidates = candidates_of([[0.0], [0.0], [0.0], [5.0]], [0] * 4, range(4))
    assert selected("algorithm1", candidates, 2) == [[0, 3]]


def test_all_equal_candidates_go_by_rank():
    # Enough of them that a sort which is not stable would show.
    rank = np.random.default_rng(0).permutation(600)
    candidates = candidates_of(np.zeros((600, 2)), np.arange(600) % 2, rank)
    for chosen in selected("algorithm1", candidates, 50):
        assert (np.diff(rank[chosen]) > 0).all()
        assert len(chosen) == 50


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_selects_exactly_t_each_once_of_its_own_class(rng, name):
    class_index = rng.permutation(np.repeat([0, 1, 2], [50, 6, 1]))
    embedding, rank = rng.normal(size=(57, 3)), rng.permutation(57)
    candidates = candidates_of(embedding, class_index, rank)
    chosen = selected(name, candidates, 6, 3)
    assert [len(set(rows)) for rows in chosen] == [6, 6, 1]
    for label, rows in enumerate(chosen):
        assert (class_index[rows] == label).all()
    again = selected(name, candidates, 6, 3)
    assert again == chosen


def test_best_takes_the_top_in_order(rng):
    rank = rng.permutation(20)
    candidates = candidates_of(rng.normal(size=(20, 2)), [0, 1] * 10, rank)
    chosen = selected("none", candidates, 4)
    for label, rows in enumerate(chosen):
        assert rank[rows].tolist() == sorted(rank[label::2])[:4]


def test_random_choice_draws_all_alike(rng):
    candidates = candidates_of(np.zeros((10, 2)), [0] * 10, range(10))
    drawn = [selected("random", candidates, 3, seed)[0] for seed in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    # 2,000 draws of 3 in 10: 600 each, standard deviation 20.5.
    assert (np.abs(counts - 600) < 4 * 20.5).all()
    assert len({tuple(rows) for rows in drawn}) > 500


def test_kmeans_takes_the_member_nearest_to_each_centre(rng):
    # Three clusters; in each the middle one of three points on a line is nearest.
    middles = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    embedding = (middles[:, None] + [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]).reshape(9, 2)
    rank = rng.permutation(9)
    candidates = candidates_of(embedding, [0] * 9, rank)
    chosen = selected("kmeans", candidates, 3)[0]
    assert set(chosen) == {1, 4, 7}
    assert (np.diff(rank[chosen]) > 0).all()


def test_kmeans_fills_up_where_candidates_are_alike():
    embedding = np.repeat([[0.0, 0.0], [3.0, 1.0]], [5, 5], axis=0)
    candidates = candidates_of(embedding, [0] * 10, range(10))
    chosen = selected("kmeans", candidates, 4)[0]
    assert chosen == [0, 5, 1, 2]


def test_kmeans_fills_up_where_candidates_differ_by_rounding_alone(rng):
    embedding = rng.integers(0, 2, size=(30, 1)) * [[1.0, 0.0]]
    embedding = embedding + 1e-9 * rng.normal(size=(30, 2))
    candidates = candidates_of(embedding, [0] * 30, range(30))
    chosen = selected("kmeans", candidates, 10, 2**32)[0]
    assert len(set(chosen)) == 10


def greedy_cover(distance, wanted):
    """Facility location one candidate at a time, for one class."""
    chosen = []
    for _ in range(wanted):
        others = [j for j in range(len(distance)) if j not in chosen]
        sums = [distance[[*chosen, j]].min(axis=0).sum() for j in others]
        # Of equal sums, those of a pair that is only near each other, the better one.
        chosen.append(others[int(np.argmin(np.round(sums, 9)))])
    return chosen


def test_coverage_by_hand():
    # On a line at 0, 1, 2, 10, 11: sums to one are 24, 21, 20, 36, 40, so 2 is first;
    # then 10 and 11 leave 3 + 1 each, and the better one is taken. 1 and either leave
    # 1 + 1 + 1: k-medoids swaps 2 for 1.
    candidates = candidates_of([[0.0], [1.0], [2.0], [10.0], [11.0]], [0] * 5, range(5))
    assert selected("facility_location", candidates, 2) == [[2, 3]]
    assert selected("k_medoids", candidates, 2) == [[1, 3]]


@pytest.mark.parametrize(("block_rows", "kept_rows"), [(256, 4096), (7, 4096), (7, 0)])
def test_coverage_equals_brute_force(rng, block_rows, kept_rows, monkeypatch):
    monkeypatch.setattr(coverage, "_BLOCK_ROWS", block_rows)
    monkeypatch.setattr(coverage, "_KEPT_ROWS", kept_rows)
    best = 0
    for _ in range(20):
        embedding = rng.normal(size=(15, 3))
        candidates = candidates_of(embedding, [0] * 15, range(15))
        distance = cdist(embedding, embedding)

        def sum_of(places, distance=distance):
            return distance[list(places)].min(axis=0).sum()

        (greedy,) = selected("facility_location", candidates, 3)
        assert greedy == greedy_cover(distance, 3)
        least = min(map(sum_of, itertools.combinations(range(15), 3)))
        gain = 15 * distance.max()
        assert gain - sum_of(greedy) >= (1 - 1 / np.e) * (gain - least)
        (medoids,) = selected("k_medoids", candidates, 3)
        assert medoids == sorted(medoids)
        assert sum_of(medoids) <= sum_of(greedy)
        # No swap of one is better, and most are the best of all sets of three.
        for place, new in itertools.product(range(3), range(15)):
            swapped = [*medoids[:place], new, *medoids[place + 1 :]]
            assert sum_of(swapped) >= sum_of(medoids) - 1e-9
        best += sum_of(medoids) < least + 1e-9
    assert best >= 15


@pytest.mark.parametrize("name", ["facility_location", "k_medoids"])
def test_coverage_of_equal_candidates_goes_by_rank(rng, name):
    embedding = np.repeat(rng.normal(size=(3, 2)), 8, axis=0)
    rank = rng.permutation(24)
    candidates = candidates_of(embedding, [0] * 24, rank)
    chosen = selected(name, candidates, 10)[0]
    best = [min(range(8 * k, 8 * k + 8), key=lambda i: rank[i]) for k in range(3)]
    assert set(chosen[:3] if name == "facility_location" else chosen) >= set(best)
    others = [i for i in np.argsort(rank) if i not in best][:7]
    assert set(chosen) == {*best, *others}
    alone = candidates_of([[1.0, 2.0]], [0], [0])
    assert selected(name, alone, 3) == [[0]]


def test_duplicates_are_at_distance_zero_whatever_rounding_makes_of_it(rng):
    # Far from the origin, expanded squares of equal rows need not be exactly 0.
    embedding = np.repeat(rng.exponential(size=(40, 128)), 2, axis=0)
    candidates = candidates_of(embedding, np.zeros(80, int), range(80))
    (spread,) = nearest_better_distances(*candidates)
    np.testing.assert_array_equal(spread[1::2], 0.0)
    assert (spread[0::2] > 0).all()
