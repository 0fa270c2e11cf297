"""Eq. 7 by hand and against scipy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pmal_tf.mining import tiles
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.runtime.errors import PmalError


def random_spaces(rng, count=60, widths=(8, 5), num_classes=4):
    embeddings = [rng.normal(size=(count, width)) for width in widths]
    kernels = [rng.normal(size=(width, num_classes)) for width in widths]
    return embeddings, kernels


def scipy_exponent(first, second):
    """The route a user would write: two full matrices, D x D covariance."""
    distances = []
    for embedding, kernel in (first, second):
        centred = kernel - kernel.mean(axis=1, keepdims=True)
        distances.append(
            cdist(embedding, embedding, "mahalanobis", VI=centred @ centred.T)
        )
    difference = distances[0] - distances[1]
    return np.sqrt((difference**2).sum(axis=1))


def test_exponent_by_hand():
    # K = 2 and W = [[1, -1]] give A = W, d_M(z_i, z_j) = sqrt(2) |z_i - z_j|.
    # Space 1 at 0, 1, 3; space 2 at 0, 2, 3: distances differ by sqrt(2) times
    # (0, 1, 0), (1, 0, 1), (0, 1, 0), so e = sqrt(2/3), sqrt(4/3), sqrt(2/3).
    kernel = np.array([[1.0, -1.0]])
    first, second = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]])
    result = topology_robustness([first, second], [kernel, kernel], dtype="float64")
    expected = np.sqrt([2 / 3, 4 / 3, 2 / 3])
    assert result.exponent == pytest.approx(expected, abs=1e-12)
    assert result.robustness == pytest.approx(np.exp(-expected), abs=1e-12)


def test_literal_norm_is_the_paper_s_equation(rng):
    embeddings, kernels = random_spaces(rng)
    expected = scipy_exponent(*zip(embeddings, kernels, strict=True))
    literal = topology_robustness(embeddings, kernels, norm="literal", dtype="float64")
    rms = topology_robustness(embeddings, kernels, dtype="float64")
    # Expanded squares leave 1e-8 on the diagonal, where scipy has an exact 0.
    np.testing.assert_allclose(literal.exponent, expected, rtol=1e-7)
    np.testing.assert_allclose(rms.exponent, expected / np.sqrt(60), rtol=1e-7)


@pytest.mark.parametrize("tile", [1, 7, 30, 59, 60, 1000])
def test_tiles_do_not_change_the_result(rng, tile, monkeypatch):
    embeddings, kernels = random_spaces(rng)
    whole = topology_robustness(embeddings, kernels, dtype="float64").exponent
    monkeypatch.setattr(tiles, "_BEST_TILE", tile)
    monkeypatch.setattr(tiles, "_LEAST_TILE", 1)
    parts = topology_robustness(embeddings, kernels, dtype="float64").exponent
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_more_models_average_the_robustness_of_all_pairs(rng):
    embeddings, kernels = random_spaces(rng, widths=(8, 5, 6))
    pairs = [(0, 1), (0, 2), (1, 2)]
    each = [
        topology_robustness(
            [embeddings[a], embeddings[b]], [kernels[a], kernels[b]]
        ).robustness
        for a, b in pairs
    ]
    result = topology_robustness(embeddings, kernels)
    np.testing.assert_allclose(result.robustness, np.mean(each, axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.exponent, -np.log(np.mean(each, axis=0)))


def test_underflowing_robustness_keeps_its_order(rng):
    embeddings, kernels = random_spaces(rng)
    result = topology_robustness(
        [1e4 * embeddings[0], embeddings[1]], kernels, norm="literal"
    )
    assert (result.robustness == 0).all()
    assert np.isfinite(result.exponent).all()
    assert len(np.unique(result.exponent)) == 60


def test_equal_spaces_are_fully_robust(rng):
    embeddings, kernels = random_spaces(rng)
    result = topology_robustness([embeddings[0]] * 2, [kernels[0]] * 2)
    np.testing.assert_array_equal(result.exponent, 0.0)
    np.testing.assert_array_equal(result.robustness, 1.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z, w: (z[:1], w[:1]), "at least 2 embedding spaces"),
        (lambda z, w: ([z[0], z[1][:-1]], w), "same N"),
        (lambda z, w: (z, [w[0], w[1][:, :-1]]), "same N"),
        (lambda z, w: ([z[0][:, :-1], z[1]], w), "same N"),
        (lambda z, w: ([z[0][:0], z[1][:0]], w), "same N"),
    ],
)
def test_spaces_that_do_not_fit_are_errors(rng, spoil, message):
    with pytest.raises(PmalError, match=message):
        topology_robustness(*spoil(*random_spaces(rng)))


@pytest.mark.parametrize("options", [{"norm": "mean"}, {"anchors": -5}])
def test_values_that_are_not_allowed_are_errors(rng, options):
    with pytest.raises(PmalError, match=r"topology_(norm|anchors)"):
        topology_robustness(*random_spaces(rng), **options)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("anchors", [0, 30])
def test_very_large_and_small_numbers_are_as_good_as_any(rng, scale, dtype, anchors):
    embeddings, kernels = random_spaces(rng)
    options = {"dtype": dtype, "anchors": anchors}
    usual = topology_robustness(embeddings, kernels, **options)
    scaled = topology_robustness([z * scale for z in embeddings], kernels, **options)
    np.testing.assert_allclose(scaled.exponent, usual.exponent * scale, rtol=1e-5)
    if anchors:
        np.testing.assert_allclose(
            scaled.standard_error, usual.standard_error * scale, rtol=1e-4
        )


def test_numbers_whose_distances_overflow_are_an_error(rng):
    embeddings, kernels = random_spaces(rng)
    with pytest.raises(PmalError, match="so large that distances overflow"):
        topology_robustness(
            [z * 1e200 for z in embeddings], [w * 1e200 for w in kernels]
        )
