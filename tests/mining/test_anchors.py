"""Robustness from a sample: without bias, and with an error that is right."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist
from topology_oracle import oracle_exponent

from pmal_tf.mining.anchors import (
    Anchors,
    anchored_means,
    draw_anchors,
    rows_within,
)
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.mining.tiles import TilePlan
from pmal_tf.mining.topologies import TOPOLOGIES
from pmal_tf.runtime.errors import PmalError

SIZES = np.array([40, 25, 10, 4, 1])


@pytest.fixture
def class_index(rng):
    return rng.permutation(np.repeat([0, 1, 2, 5, 7], SIZES))


@pytest.fixture
def spaces(rng, class_index):
    """Two noisy views of clusters, where classes explain much of the variance."""
    centres = 3 * rng.normal(size=(8, 4))
    base = centres[class_index] + rng.normal(size=(len(class_index), 4))
    return [base + 0.5 * rng.normal(size=base.shape) for _ in range(2)]


def full_squares(spaces):
    return (cdist(spaces[0], spaces[0]) - cdist(spaces[1], spaces[1])) ** 2


def estimate(spaces, anchors, tile=16, topology="rms"):
    count = len(spaces[0])
    plan = TilePlan(count, tile, tf.float64)
    padding = ((0, plan.padded - count), (0, 0))
    moments = np.zeros((2, plan.padded))
    done = anchored_means(
        *(tf.constant(np.pad(points, padding)) for points in spaces),
        np.arange(count),
        anchors,
        TOPOLOGIES[topology],
        plan,
        out=moments,
    )
    assert list(done) == list(range(1, plan.blocks + 1))
    return moments[:, :count]


def test_mean_and_variance_by_hand():
    # On a line at 0, 1, 3, 6, in the second space at 0, 1, 3, 8: from the first image
    # x = (0, 0, 0, 4), from the last x = (4, 4, 4, 0). Two anchors of one class, the
    # last image and the first: means (0 + 4) / 2 = 2 both. The variance is
    # (1 - 2/4) S^2 / 2 with S^2 = (4 - 0)^2 / 2 = 8, so 2.
    spaces = [np.array([[0.0], [1.0], [3.0], [6.0]]), np.array([[0.0], [1], [3], [8]])]
    anchors = Anchors(np.array([3, 0]), np.array([0.5, 0.5]), np.array([1 / 8, 0.0]))
    mean, variance = estimate(spaces, anchors, tile=2)
    np.testing.assert_allclose(mean[[0, 3]], 2.0)
    np.testing.assert_allclose(variance[[0, 3]], 2.0)


def test_weights_are_those_of_the_formula(class_index):
    anchors = draw_anchors(class_index, 20, seed=3)
    assert len(set(anchors.position.tolist())) == 20
    assert anchors.weight.sum() == pytest.approx(1.0)
    drawn = class_index[anchors.position]
    assert (np.diff(drawn) >= 0).all()
    for label, size in zip([0, 1, 2, 5, 7], SIZES, strict=True):
        own = drawn == label
        count = own.sum()
        assert count >= min(2, size)
        assert anchors.weight[own] == pytest.approx(size / 80 / count)
        variance = (size / 80) ** 2 * (1 - count / size) / count
        expected = np.full(count, variance / (2 * max(count - 1, 1)))
        expected[-1] = 0.0
        assert anchors.difference_weight[own] == pytest.approx(expected)


def test_estimates_equal_the_formula_of_one_draw(spaces, class_index):
    anchors = draw_anchors(class_index, 30, seed=1)
    mean, variance = estimate(spaces, anchors)
    squares = full_squares(spaces)[:, anchors.position]
    np.testing.assert_allclose(mean, squares @ anchors.weight, rtol=1e-9)
    steps = np.diff(squares, axis=1) ** 2
    expected = steps @ anchors.difference_weight[:-1]
    np.testing.assert_allclose(variance, expected, rtol=1e-9)


def weighted_exponent(near, far, weight, topology):
    """The exponents of [n, M] distances with weights, by NumPy's weighted moments."""
    if topology == "correlation":
        moments = [
            np.cov(a, b, aweights=weight) for a, b in zip(near, far, strict=True)
        ]
        return np.array([1 - c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in moments])
    root = np.sqrt(weight)
    near, far = (
        t * root / np.linalg.norm(t * root, axis=1)[:, None] for t in (near, far)
    )
    return np.linalg.norm(near - far, axis=1)


@pytest.mark.parametrize("topology", ["correlation", "chord"])
def test_scale_free_estimates_equal_weighted_moments(spaces, class_index, topology):
    anchors = draw_anchors(class_index, 30, seed=1)
    own, weight = anchors.position, anchors.weight
    near, far = (cdist(space, space[own]) for space in spaces)
    form = TOPOLOGIES[topology]
    found, error = form.exponents(*estimate(spaces, anchors, topology=topology), 1.0)
    expected = weighted_exponent(near, far, weight, topology)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # The influence of an anchor is the slope of the exponent in its weight.
    step, slopes = 1e-6, np.empty_like(near)
    for anchor in range(30):
        more = weight * (1 - step)
        more[anchor] += step
        changed = weighted_exponent(near, far, more / more.sum(), topology)
        slopes[:, anchor] = (changed - expected) / step
    variance = np.diff(slopes, axis=1) ** 2 @ anchors.difference_weight[:-1]
    np.testing.assert_allclose(error, np.sqrt(variance), rtol=2e-3)


@pytest.mark.parametrize("topology", ["correlation", "chord"])
def test_over_many_draws_scale_free_errors_are_right(spaces, class_index, topology):
    draws, form = 400, TOPOLOGIES[topology]
    exact = oracle_exponent(*(cdist(space, space) for space in spaces), topology)
    found, errors = np.empty((2, draws, len(exact)))
    for seed in range(draws):
        anchors = draw_anchors(class_index, 48, seed)
        moments = estimate(spaces, anchors, tile=80, topology=topology)
        found[seed], errors[seed] = form.exponents(*moments, 1.0)
    # Bias is of the order 1 / M, the error 1 / sqrt(M); to first order the variance is
    # right, and a draw of 48 from 80 has both.
    deviation = found.std(axis=0)
    assert np.median(np.abs(found.mean(axis=0) - exact) / deviation) < 0.2
    assert np.abs(found.mean() / exact.mean() - 1) < 0.02
    ratio = np.sqrt((errors**2).mean(axis=0)) / deviation
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)
    assert ((ratio > 0.7) & (ratio < 1.3)).mean() > 0.95


def test_over_many_draws_the_mean_is_right_and_so_is_its_error(spaces, class_index):
    draws = 3000
    squares = full_squares(spaces)
    means, variances = np.empty((2, draws, len(squares)))
    for seed in range(draws):
        anchors = draw_anchors(class_index, 24, seed)
        drawn = squares[:, anchors.position]
        means[seed] = drawn @ anchors.weight
        variances[seed] = np.diff(drawn, axis=1) ** 2 @ anchors.difference_weight[:-1]
    error = means.std(axis=0) / np.sqrt(draws)
    # 80 images: the largest of 80 standard normals passes 4.5 once in 2,000 times.
    assert (np.abs(means.mean(axis=0) - squares.mean(axis=1)) < 4.5 * error).all()
    ratio = variances.mean(axis=0) / means.var(axis=0)
    assert np.abs(ratio - 1).max() < 0.2
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms"])
def test_all_samples_but_one_nearly_give_the_exact_exponent(
    spaces, class_index, topology
):
    arguments = (spaces, [np.eye(4)] * 2)
    options = {"topology": topology, "class_index": class_index}
    exact = topology_robustness(*arguments, **options)
    assert exact.standard_error is None
    close = topology_robustness(*arguments, anchors=79, **options)
    assert (np.abs(close.exponent - exact.exponent) < 0.05 * exact.exponent).all()
    assert (close.standard_error < 0.02).all()
    every = topology_robustness(*arguments, anchors=80, **options)
    np.testing.assert_array_equal(every.exponent, exact.exponent)
    assert every.standard_error is None


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms"])
def test_the_error_covers_the_exact_exponent(spaces, class_index, topology):
    kernels = [np.eye(4)] * 2
    exact = topology_robustness(spaces, kernels, topology=topology).exponent
    options = {"anchors": 40, "class_index": class_index, "topology": topology}
    within = []
    for seed in range(40):
        result = topology_robustness(spaces, kernels, seed=seed, **options)
        error = np.abs(result.exponent - exact)
        within.append((error < 2 * result.standard_error).mean())
    assert 0.88 < np.mean(within) < 0.99


def test_literal_estimates_are_those_of_rms_times_the_root_of_n(spaces, class_index):
    rms, literal = (
        topology_robustness(
            *(spaces, [np.eye(4)] * 2),
            topology=topology,
            anchors=40,
            class_index=class_index,
        )
        for topology in ("rms", "literal")
    )
    for name in ("exponent", "standard_error"):
        expected = np.sqrt(80) * getattr(rms, name)
        np.testing.assert_allclose(getattr(literal, name), expected, rtol=1e-12)


@pytest.mark.parametrize("topology", ["correlation", "rms"])
def test_three_spaces_weigh_their_errors(rng, spaces, class_index, topology):
    spaces = [*spaces, spaces[0] + 0.2 * rng.normal(size=spaces[0].shape)]
    options = {"anchors": 40, "class_index": class_index, "topology": topology}
    together = topology_robustness(spaces, [np.eye(4)] * 3, **options)
    pairs = [
        topology_robustness([spaces[a], spaces[b]], [np.eye(4)] * 2, **options)
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    weight = np.stack([pair.robustness for pair in pairs])
    expected = (weight * [pair.standard_error for pair in pairs]).sum(0) / weight.sum(0)
    np.testing.assert_allclose(together.standard_error, expected, rtol=1e-5)


def test_equal_images_are_at_distance_zero_of_their_anchor(rng):
    # Two groups of equal images: squared differences are 0 within and one number
    # between, so an estimate from half of each is exact and has no error.
    spaces = [np.repeat(rng.normal(size=(2, 4)) * 100, 20, axis=0) for _ in range(2)]
    labels = np.repeat([0, 1], 20)
    exact = topology_robustness(spaces, [np.eye(4)] * 2, topology="rms")
    result = topology_robustness(
        spaces, [np.eye(4)] * 2, topology="rms", anchors=20, class_index=labels
    )
    np.testing.assert_allclose(result.exponent, exact.exponent, rtol=1e-6)
    # In float32 the numbers of equal images differ in the last digit by anchor.
    np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-6)


def test_an_anchor_is_at_distance_zero_of_itself(rng):
    # The same logits in another order: no distance differs but by rounding.
    embeddings, kernel = rng.normal(size=(20, 200)), rng.normal(size=(200, 50))
    other = kernel[:, rng.permutation(50)]
    result = topology_robustness(
        [embeddings] * 2, [kernel, other], topology="rms", anchors=5
    )
    centred = kernel - kernel.mean(axis=1, keepdims=True)
    distance = cdist(embeddings @ centred, embeddings @ centred)
    assert (result.exponent < 1e-5 * distance.mean()).all()


def test_seeds_draw_other_anchors_and_the_same_seed_the_same(spaces):
    def run(seed):
        return topology_robustness(
            spaces, [np.eye(4)] * 2, anchors=20, seed=seed
        ).exponent

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_too_few_anchors_are_an_error(class_index):
    with pytest.raises(PmalError, match=r"2 per class.* 9 in all.*anchors=8$"):
        draw_anchors(class_index, 8, seed=0)
    assert len(draw_anchors(class_index, 9, seed=0).position) == 9


def test_a_budget_too_small_for_one_row_says_the_least():
    enough = rows_within(20_000, 6, 1024, tf.float32, 4 * 2**20)
    assert 1 <= enough.tile < 1024
    with pytest.raises(PmalError, match=r"at least 2 for 20000 .*1024 anchors.*=1$"):
        rows_within(20_000, 6, 1024, tf.float32, 2**20)
    # What it says is enough is enough, and no less is.
    assert rows_within(20_000, 6, 1024, tf.float32, 2 * 2**20).tile >= 1


def test_class_indices_of_another_length_are_an_error(spaces):
    with pytest.raises(PmalError, match="Received: 3 for 80"):
        topology_robustness(spaces, [np.eye(4)] * 2, anchors=9, class_index=[0, 1, 1])
