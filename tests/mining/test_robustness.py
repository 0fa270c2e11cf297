"""Eq. 7 by hand and against scipy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from topology_oracle import oracle_bound, oracle_distances, oracle_exponent

from pmal_tf.mining import tiles
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.mining.topologies import TOPOLOGIES
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
    expected = np.sqrt([2 / 3, 4 / 3, 2 / 3])
    options = {"topology": "rms", "dtype": "float64"}
    result = topology_robustness([first, second], [kernel, kernel], **options)
    assert result.exponent == pytest.approx(expected, abs=1e-12)
    assert result.robustness == pytest.approx(np.exp(-expected), abs=1e-12)


def test_scale_free_exponents_by_hand():
    # At 0, 1, 3 and 0, 2, 3 the topologies are (0, 1, 3) and (0, 2, 3); (1, 0, 2) and
    # (2, 0, 1); (3, 2, 0) and (3, 1, 0), but for a factor. Their products are 11, 4,
    # 11, their squared lengths 10, 5, 13 and 13, 5, 10, their means 4/3, 1, 5/3 and
    # 5/3, 1, 4/3, their centred squared lengths 14/3, 2, 14/3 all, so that Pearson is
    # (11 - 20/3) / (14/3) = 13/14, (4 - 3) / 2 = 1/2 and 13/14.
    kernel = np.array([[1.0, -1.0]])
    first, second = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]])
    cosine = np.array([11 / np.sqrt(130), 4 / 5, 11 / np.sqrt(130)])
    for topology, expected in (
        ("correlation", np.array([1 / 14, 1 / 2, 1 / 14])),
        ("chord", np.sqrt(2 - 2 * cosine)),
    ):
        # A factor between the spaces changes nothing.
        for factor in (1.0, 5.0):
            result = topology_robustness(
                [first, second],
                [kernel, factor * kernel],
                topology=topology,
                dtype="float64",
            )
            assert result.exponent == pytest.approx(expected, abs=1e-12)
            assert result.robustness == pytest.approx(np.exp(-expected), abs=1e-12)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_form_is_that_of_full_matrices(rng, topology, dtype):
    embeddings, kernels = random_spaces(rng, count=500)
    # Some images are there twice, one five times.
    embeddings = [np.concatenate([z, z[:20], z[[7] * 3]]) for z in embeddings]
    distances = [oracle_distances(*s) for s in zip(embeddings, kernels, strict=True)]
    expected = oracle_exponent(*distances, topology)
    found = topology_robustness(embeddings, kernels, topology=topology, dtype=dtype)
    bound = oracle_bound(expected, distances, topology)
    if dtype == "float64":
        # Expanded squares leave 1e-8 of a distance next to 0.
        bound = 1e-7 * expected
    assert (np.abs(found.exponent - expected) <= bound).all()
    np.testing.assert_array_equal(found.exponent[500:520], found.exponent[:20])


@pytest.mark.parametrize("topology", ["correlation", "chord"])
@pytest.mark.parametrize("factor", [1.0, 3.7])
@pytest.mark.parametrize("classes", [6, 100])
@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-2, 1e-3])
def test_small_exponents_keep_their_digits(rng, topology, factor, classes, noise):
    # 1 - Pearson is 1e-1 to 1e-7; formed of products it would be off by 1e-7 and more.
    base = rng.normal(size=(1000, classes)) * rng.uniform(0.3, 2.0, (1000, 1))
    views = [base + noise * rng.normal(size=base.shape) for _ in range(2)]
    kernels = [np.eye(classes), factor * np.eye(classes)]
    distances = [oracle_distances(*s) for s in zip(views, kernels, strict=True)]
    expected = oracle_exponent(*distances, topology)
    found = topology_robustness(views, kernels, topology=topology).exponent
    bound = oracle_bound(expected, distances, topology)
    assert (np.abs(found - expected) <= bound).all()
    if noise > 1e-3:
        ranks = [np.argsort(np.argsort(e)) for e in (found, expected)]
        assert np.corrcoef(*ranks)[0, 1] > 0.9999


def test_scale_free_exponents_stay_within_their_ranges(rng):
    # Groups that are near in one space are far in the other, and no group is between.
    first = np.repeat([0.0, 0.0, 1.0, 1.0], 10)[:, None] + 1e-3 * rng.random((40, 1))
    second = np.repeat([0.0, 1.0, 0.0, 1.0], 10)[:, None] + 1e-3 * rng.random((40, 1))
    kernel = np.array([[1.0, -1.0]])
    for topology, most in (("correlation", 2.0), ("chord", np.sqrt(2))):
        e = topology_robustness([first, second], [kernel] * 2, topology=topology)
        assert (e.exponent > most / 3).all()
        assert (e.exponent <= most).all()


@pytest.mark.parametrize("topology", ["correlation", "chord"])
@pytest.mark.parametrize("anchors", [0, 10])
def test_a_space_in_which_all_images_coincide_has_no_topology(rng, topology, anchors):
    (embedding, _), (kernel, _) = random_spaces(rng)
    flat = np.ones_like(embedding)
    options = {"topology": topology, "anchors": anchors}
    with pytest.raises(PmalError, match=r"60 equal points in space 1\. .*topology=rms"):
        topology_robustness([embedding, flat], [kernel] * 2, **options)
    options["topology"] = "rms"
    result = topology_robustness([embedding, flat], [kernel] * 2, **options)
    assert (result.exponent > 0).all()


def test_equal_distances_to_all_others_still_correlate():
    # The corners of a simplex: only the distance to oneself differs, in both spaces.
    corners = [np.eye(5), 3.0 * np.eye(5)[[1, 2, 3, 4, 0]]]
    for dtype in ("float32", "float64"):
        result = topology_robustness(corners, [np.eye(5)] * 2, dtype=dtype)
        np.testing.assert_allclose(result.exponent, 0.0, atol=1e-6)


def test_literal_norm_is_the_paper_s_equation(rng):
    embeddings, kernels = random_spaces(rng)
    expected = scipy_exponent(*zip(embeddings, kernels, strict=True))
    literal, rms = (
        topology_robustness(embeddings, kernels, topology=topology, dtype="float64")
        for topology in ("literal", "rms")
    )
    # Expanded squares leave 1e-8 on the diagonal, where scipy has an exact 0.
    np.testing.assert_allclose(literal.exponent, expected, rtol=1e-7)
    np.testing.assert_allclose(rms.exponent, expected / np.sqrt(60), rtol=1e-7)


@pytest.mark.parametrize("topology", ["correlation", "rms"])
@pytest.mark.parametrize("tile", [1, 7, 30, 59, 60, 1000])
def test_tiles_do_not_change_the_result(rng, topology, tile, monkeypatch):
    embeddings, kernels = random_spaces(rng)
    options = {"topology": topology, "dtype": "float64"}
    whole = topology_robustness(embeddings, kernels, **options).exponent
    monkeypatch.setattr(tiles, "_BEST_TILE", tile)
    monkeypatch.setattr(tiles, "_LEAST_TILE", 1)
    parts = topology_robustness(embeddings, kernels, **options).exponent
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_more_models_average_the_robustness_of_all_pairs(rng, topology):
    embeddings, kernels = random_spaces(rng, widths=(8, 5, 6))
    pairs = [(0, 1), (0, 2), (1, 2)]
    distances = [oracle_distances(*s) for s in zip(embeddings, kernels, strict=True)]
    if topology == "literal":
        kernels = [kernel / 100 for kernel in kernels]
        distances = [own / 100 for own in distances]
    each = [
        np.exp(-oracle_exponent(distances[a], distances[b], topology)) for a, b in pairs
    ]
    result = topology_robustness(
        embeddings, kernels, topology=topology, dtype="float64"
    )
    np.testing.assert_allclose(result.robustness, np.mean(each, axis=0), rtol=1e-7)
    np.testing.assert_allclose(result.exponent, -np.log(np.mean(each, axis=0)), 1e-6)


def test_underflowing_robustness_keeps_its_order(rng):
    embeddings, kernels = random_spaces(rng)
    result = topology_robustness(
        [1e4 * embeddings[0], embeddings[1]], kernels, topology="literal"
    )
    assert (result.robustness == 0).all()
    assert np.isfinite(result.exponent).all()
    assert len(np.unique(result.exponent)) == 60


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equal_spaces_are_fully_robust(rng, topology):
    embeddings, kernels = random_spaces(rng)
    result = topology_robustness(
        [embeddings[0]] * 2, [kernels[0]] * 2, topology=topology
    )
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


@pytest.mark.parametrize("options", [{"topology": "mean"}, {"anchors": -5}])
def test_values_that_are_not_allowed_are_errors(rng, options):
    with pytest.raises(PmalError, match=r"`topology(_anchors)?`"):
        topology_robustness(*random_spaces(rng), **options)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("anchors", [0, 30])
def test_very_large_and_small_numbers_are_as_good_as_any(rng, scale, dtype, anchors):
    embeddings, kernels = random_spaces(rng)
    options = {"topology": "rms", "dtype": dtype, "anchors": anchors}
    usual = topology_robustness(embeddings, kernels, **options)
    scaled = topology_robustness([z * scale for z in embeddings], kernels, **options)
    np.testing.assert_allclose(scaled.exponent, usual.exponent * scale, rtol=1e-5)
    if anchors:
        np.testing.assert_allclose(
            scaled.standard_error, usual.standard_error * scale, rtol=1e-4
        )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("topology", ["correlation", "chord"])
@pytest.mark.parametrize("anchors", [0, 30])
def test_one_space_of_very_large_or_small_numbers_is_as_good(
    rng, scale, topology, anchors
):
    embeddings, kernels = random_spaces(rng)
    options = {"topology": topology, "anchors": anchors}
    usual = topology_robustness(embeddings, kernels, **options)
    scaled = topology_robustness(
        [scale * embeddings[0], embeddings[1]], kernels, **options
    )
    np.testing.assert_allclose(scaled.exponent, usual.exponent, rtol=1e-5)
    if anchors:
        np.testing.assert_allclose(
            scaled.standard_error, usual.standard_error, rtol=1e-4
        )


def test_numbers_whose_distances_overflow_are_an_error(rng):
    embeddings, kernels = random_spaces(rng)
    with pytest.raises(PmalError, match="so large that distances overflow"):
        topology_robustness(
            [z * 1e200 for z in embeddings], [w * 1e200 for w in kernels]
        )
