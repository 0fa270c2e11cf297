"""From spaces to prototypes: every quality with every filter, and bad input."""

import dataclasses

import numpy as np
import pytest
from topology_oracle import oracle_distances, oracle_exponent

from pmal_tf.mining import mine as module
from pmal_tf.mining.filters import FILTERS
from pmal_tf.mining.mine import (
    MiningSettings,
    count_candidates,
    mine,
    rank_classes,
    share_of_candidates,
)
from pmal_tf.mining.qualities import QUALITIES
from pmal_tf.mining.spaces import Space
from pmal_tf.runtime.errors import PmalError

NAMES = ["ant", "bee", "cat"]
COUNT = 90


@pytest.fixture
def spaces(rng):
    """Three noisy views of the same three clusters."""
    centres = 4 * rng.normal(size=(3, 5))
    base = centres[np.arange(COUNT) % 3] + rng.normal(size=(COUNT, 5))
    kernel = np.linalg.pinv(centres)
    return [
        Space(base + 0.3 * rng.normal(size=base.shape), kernel, np.zeros(3))
        for _ in range(3)
    ]


@pytest.fixture
def images():
    """Class indices and example ids."""
    return np.arange(COUNT) % 3, np.array([f"image_{n:03d}" for n in range(COUNT)])


def run(spaces, images, dropout_space=None, **settings):
    settings = {"prototypes_per_class": 4, **settings}
    return mine(
        spaces[:2],
        *images,
        class_names=NAMES,
        settings=MiningSettings(**settings),
        dropout_space=dropout_space or spaces[2],
        seed=5,
    )


@pytest.mark.parametrize("topology", ["correlation", "chord", "rms"])
def test_mining_equals_the_paper_step_by_step(spaces, images, topology):
    """A literal oracle: full distance matrices, thresholds, and the listing."""
    options = {"topology": topology, "candidate_rule": "relative"}
    result = run(spaces, images, epsilon=0.9, **options)
    class_index, _ = images
    distances = [oracle_distances(s.embedding, s.kernel) for s in spaces[:2]]
    exponent = oracle_exponent(*distances, topology)
    np.testing.assert_allclose(result.robustness.exponent, exponent, rtol=1e-5)
    robustness = np.exp(-exponent)
    for label in range(3):
        members = np.flatnonzero(class_index == label)
        members = members[np.argsort(exponent[members])]
        pool = members[robustness[members] >= 0.9 * robustness[members[0]]]
        report = result.report[label]
        assert report.candidates == max(len(pool), 4)
        assert report.relaxed == (len(pool) < 4)
        if len(pool) < 4:
            pool = members[:4]
        inner = distances[0][np.ix_(pool, pool)]
        spread = [inner.max()] + [inner[i, :i].min() for i in range(1, len(pool))]
        expected = pool[np.argsort(-np.array(spread), kind="stable")[:4]]
        np.testing.assert_array_equal(result.selection[label], expected)
        assert report.class_name == NAMES[label]
        assert report.images == 30
        assert report.prototypes == 4
        assert report.robustness_max == pytest.approx(robustness[members[0]], rel=1e-5)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("diversity", FILTERS)
def test_every_quality_goes_with_every_filter(spaces, images, quality, diversity):
    if quality == diversity == "none":
        with pytest.raises(PmalError, match="diversity=random"):
            run(spaces, images, quality=quality, diversity=diversity)
        return
    result = run(spaces, images, quality=quality, diversity=diversity)
    class_index, _ = images
    for label, chosen in enumerate(result.selection):
        assert len(set(chosen.tolist())) == 4
        assert (class_index[chosen] == label).all()


@pytest.mark.parametrize("quality", ["probability", "deep_ensembles", "mc_dropout"])
def test_baselines_keep_as_many_candidates_as_robustness(spaces, images, quality):
    options = {"epsilon": 0.95, "candidate_rule": "relative"}
    own = run(spaces, images, **options)
    baseline = run(spaces, images, quality=quality, diversity="none", **options)
    assert [r.candidates for r in baseline.report] == [r.candidates for r in own.report]
    assert not np.array_equal(baseline.quality_exponent, own.quality_exponent)
    np.testing.assert_array_equal(baseline.robustness.exponent, own.robustness.exponent)
    for label, chosen in enumerate(baseline.selection):
        members = np.flatnonzero(images[0] == label)
        best = members[
            np.argsort(baseline.quality_exponent[members], kind="stable")[:4]
        ]
        np.testing.assert_array_equal(chosen, best)


@pytest.mark.parametrize("quality", ["robustness", "probability", "deep_ensembles"])
def test_a_share_of_the_images_are_candidates(spaces, images, quality):
    options = {"quality": quality, "candidate_rule": "share", "diversity": "none"}
    result = run(spaces, images, epsilon=0.4, prototypes_per_class=12, **options)
    few = run(spaces, images, epsilon=0.1, **options)
    for label, report in enumerate(result.report):
        assert (report.candidates, report.relaxed) == (12, False)
        # Three of 30 are fewer than the 4 wanted.
        assert (few.report[label].candidates, few.report[label].relaxed) == (4, True)
        members = np.flatnonzero(images[0] == label)
        order = np.argsort(result.quality_exponent[members], kind="stable")
        np.testing.assert_array_equal(result.selection[label], members[order[:12]])
    # Without a quality there is no best share.
    none = run(spaces, images, **{**options, "quality": "none", "diversity": "random"})
    assert [r.candidates for r in none.report] == [30, 30, 30]


def test_a_share_is_the_same_under_all_that_orders_images_alike(spaces, images):
    options = {"candidate_rule": "share", "epsilon": 0.5}
    rms, literal = (
        run(spaces, images, topology=topology, **options)
        for topology in ("rms", "literal")
    )
    for own, other in zip(rms.selection, literal.selection, strict=True):
        np.testing.assert_array_equal(own, other)


def test_literal_candidates_of_a_variance_are_all_images(spaces, images):
    literal = run(
        spaces, images, epsilon=0.7, quality="deep_ensembles", candidate_rule="literal"
    )
    assert [r.candidates for r in literal.report] == [30, 30, 30]
    by_probability = run(
        spaces, images, epsilon=0.99, quality="probability", candidate_rule="literal"
    )
    r = np.exp(-by_probability.quality_exponent)
    for label, report in enumerate(by_probability.report):
        own = r[images[0] == label]
        assert report.candidates == max((own >= 0.99 * own.max()).sum(), 4)


def test_without_a_quality_algorithm_1_still_goes_by_robustness(spaces, images):
    result = run(spaces, images, quality="none")
    assert [r.candidates for r in result.report] == [30, 30, 30]
    for label, chosen in enumerate(result.selection):
        members = np.flatnonzero(images[0] == label)
        best = members[np.argmin(result.robustness.exponent[members])]
        assert chosen[0] == best


def test_anchors_reach_the_result(spaces, images):
    result = run(spaces, images, topology_anchors=30)
    assert result.robustness.standard_error is not None
    assert (result.robustness.standard_error > 0).all()
    assert run(spaces, images).robustness.standard_error is None


def test_a_class_of_one_image(spaces, images):
    class_index = np.where(np.arange(COUNT) == 17, 2, np.arange(COUNT) % 2)
    result = run(spaces, (class_index, images[1]), prototypes_per_class=100)
    assert [r.prototypes for r in result.report] == [45, 44, 1]
    assert result.selection[2].tolist() == [17]
    assert result.report[2].robustness_min == result.report[2].robustness_max


def test_equal_embeddings_go_by_id(images):
    alike = Space(np.ones((COUNT, 5)), np.eye(5)[:, :3], np.zeros(3))
    ids = images[1][::-1]
    result = run([alike] * 3, (images[0], ids), topology="rms")
    assert (result.robustness.robustness == 1.0).all()
    for label, chosen in enumerate(result.selection):
        own = sorted(ids[images[0] == label])
        assert ids[chosen].tolist() == own[:4]


@pytest.mark.parametrize(
    ("class_index", "message"),
    [
        (lambda c: np.where(c == 2, 3, c), r"indices \[3\] outside, classes \[2\]"),
        (lambda c: np.where(c == 2, -1, c), r"indices \[-1\] outside, classes \[2\]"),
        (lambda c: np.where(c == 2, 1, c), r"indices \[\] outside, classes \[2\]"),
        (lambda c: c[:-1], "89 class indices"),
    ],
)
def test_class_indices_that_do_not_fit_are_errors(spaces, images, class_index, message):
    with pytest.raises(PmalError, match=message):
        run(spaces, (class_index(images[0]), images[1]))


def test_repeated_ids_are_an_error(spaces, images):
    with pytest.raises(PmalError, match="repeated ids"):
        run(spaces, (images[0], np.where(images[0] == 0, "same", images[1])))


def test_one_class_only_is_an_error(rng):
    space = Space(rng.normal(size=(8, 3)), np.ones((3, 1)), np.zeros(1))
    with pytest.raises(PmalError, match="at least 2 classes are needed"):
        mine(
            [space, space],
            np.zeros(8, int),
            np.arange(8).astype(str),
            class_names=["only"],
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, r"\(0, 1\].*epsilon=0.0"),
        ({"quality": "sharpness"}, "robustness, probability.*=sharpness"),
        ({"candidate_rule": "matched"}, "share, relative, literal.*=matched"),
    ],
)
def test_settings_that_are_not_allowed_are_errors(spaces, images, settings, message):
    with pytest.raises(PmalError, match=message):
        run(spaces, images, **settings)


def test_mining_does_not_depend_on_the_order_of_images(rng, spaces, images):
    def chosen_ids(order, **settings):
        moved = [Space(s.embedding[order], s.kernel, s.bias) for s in spaces]
        class_index, ids = images[0][order], images[1][order]
        result = run(moved, (class_index, ids), **settings)
        return [ids[chosen].tolist() for chosen in result.selection]

    shuffle = rng.permutation(COUNT)
    for quality in ("robustness", "probability", "none"):
        expected = chosen_ids(np.arange(COUNT), quality=quality)
        assert chosen_ids(shuffle, quality=quality) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": np.full(3, np.nan)}, "NaN or infinity in space 1"),
        ({"bias": np.zeros(5)}, r"bias \[3\].*\(5, 3\) and \(5,\) in space 1"),
        ({"kernel": np.ones((5, 2))}, r"same N and K .*\(5, 2\)"),
        ({"kernel": None}, "real numbers.*object"),
        ({"embedding": np.ones((COUNT, 5), complex)}, "real numbers.*complex128"),
        ({"embedding": np.full((COUNT, 5), "x")}, "real numbers.*<U1"),
        ({"embedding": np.ones((30, 5))}, r"same N .*\(30, 5\)"),
    ],
)
def test_spaces_that_do_not_fit_are_errors(spaces, images, change, message):
    spaces[1] = dataclasses.replace(spaces[1], **change)
    with pytest.raises(PmalError, match=message):
        run(spaces, images, quality="probability")


def test_the_dropout_space_is_checked_before_any_work(spaces, images, monkeypatch):
    monkeypatch.setattr(module, "topology_robustness", None)
    broken = dataclasses.replace(spaces[2], embedding=np.full((COUNT, 5), np.nan))
    with pytest.raises(PmalError, match="space 2, rows"):
        run(spaces, images, dropout_space=broken, quality="mc_dropout")
    with pytest.raises(PmalError, match="dropout_space=None"):
        mine(
            spaces[:2],
            *images,
            class_names=NAMES,
            settings=MiningSettings(quality="mc_dropout"),
        )


@pytest.mark.parametrize(
    "class_index", [np.zeros((COUNT, 1), int), np.zeros(COUNT), np.zeros(COUNT, bool)]
)
def test_class_indices_are_integers_in_a_row(spaces, images, class_index):
    with pytest.raises(PmalError, match=r"\[N\] integers"):
        run(spaces, (class_index, images[1]))


def count(robustness, class_index, epsilon, at_least):
    exponent = -np.log(np.asarray(robustness, float))
    ids = np.array([f"{n:04d}" for n in range(len(exponent))])
    ranked = rank_classes(exponent, np.asarray(class_index), ids)
    counts, relaxed = count_candidates(exponent, ranked, epsilon, at_least)
    return counts.tolist(), relaxed.tolist()


@pytest.mark.parametrize(
    ("robustness", "class_index", "epsilon", "at_least", "counts", "relaxed"),
    [
        # Class 0: best 0.8, threshold 0.56. Class 1: best 0.4, threshold 0.28.
        (
            [0.27, 0.55, 0.57, 0.8, 0.4, 0.29],
            *([1, 0, 0, 0, 1, 1], 0.7, 1, [2, 2], [False, False]),
        ),
        # Filled with the next best; class 1 has two images, and both passed.
        (
            [0.9, 0.1, 0.3, 0.2, 0.5, 0.49],
            *([0, 0, 0, 0, 1, 1], 0.9, 3, [3, 2], [True, False]),
        ),
        ([0.5, 0.5, 0.4], [0, 0, 0], 1.0, 1, [2], [False]),
        ([0.5, 0.5, 0.4], [0, 0, 0], 1e-9, 1, [3], [False]),
    ],
)
def test_candidates_by_hand(
    robustness, class_index, epsilon, at_least, counts, relaxed
):
    assert count(robustness, class_index, epsilon, at_least) == (counts, relaxed)


def test_shares_by_hand():
    # 0.3 of 10, 5 and 1 images: 3, 1.5 (to even) and 0.3; at least T = 2, if there are.
    ranked = [np.arange(10), np.arange(5), np.arange(1)]
    counts, relaxed = share_of_candidates(ranked, 0.3, at_least=2)
    assert counts.tolist() == [3, 2, 1]
    assert relaxed.tolist() == [False, False, True]
    assert share_of_candidates(ranked, 1.0, at_least=2)[0].tolist() == [10, 5, 1]


def test_candidates_equal_a_loop(rng):
    robustness, class_index = rng.uniform(0.01, 1, 300), rng.integers(0, 7, 300)
    counts, relaxed = count(robustness, class_index, epsilon=0.8, at_least=10)
    for k in range(7):
        own = robustness[class_index == k]
        passed = (own >= 0.8 * own.max()).sum()
        assert counts[k] == max(passed, min(10, len(own)))
        assert relaxed[k] == (passed < min(10, len(own)))


def test_ranks_break_ties_by_id_whatever_the_order_of_arrays():
    exponent = np.array([1.0, 0.5, 1.0, 0.5, 0.1])
    ids = np.array(["d", "c", "a", "b", "e"])
    ranked = rank_classes(exponent, np.array([1, 1, 1, 1, 0]), ids)
    assert [own.tolist() for own in ranked] == [[4], [3, 1, 2, 0]]
