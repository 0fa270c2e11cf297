import math

import numpy as np
import pytest

from pmal_tf.evaluation.scores import RULES, unknown_scores


def score(logits, distance=None):
    logits = np.array(logits, np.float32)
    return unknown_scores(
        np.zeros_like(logits) if distance is None else distance, logits
    )


def test_scores_by_hand():
    distance = np.array([[0.25, 1.5], [2.0, 0.5]], np.float32)
    logits = np.array([[0.0, math.log(3.0)], [-1.0, -1.0]])
    scores = unknown_scores(distance, logits)
    assert set(scores) == set(RULES) == {"dr", "pr", "mls"}
    assert scores["dr"].tolist() == [0.25, 0.5]
    # Odds of 1 to 3, and of 1 to 1.
    np.testing.assert_allclose(scores["pr"], [0.25, 0.5], rtol=1e-15)
    np.testing.assert_array_equal(scores["mls"], [-math.log(3.0), 1.0])


def test_scores_are_float64_whatever_comes_in():
    scores = score([[1.0, 2.0, 3.0]])
    assert {values.dtype for values in scores.values()} == {np.dtype(np.float64)}
    assert {values.shape for values in scores.values()} == {(1,)}


def test_pr_is_one_minus_the_largest_softmax_probability():
    logits = np.random.default_rng(0).normal(0, 3, (500, 7))
    exponential = np.exp(logits)
    probability = exponential / exponential.sum(axis=1, keepdims=True)
    scores = unknown_scores(np.zeros_like(logits), logits)
    np.testing.assert_allclose(
        scores["pr"], 1.0 - probability.max(axis=1), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("gap", [20.0, 40.0, 100.0, 700.0])
def test_pr_resolves_very_confident_images(gap):
    # 1 - p = e^-gap / (1 + e^-gap), which 1 - max p rounds to 0 from a gap of 37 on.
    pr = score([[gap, 0.0]])["pr"][0]
    assert pr == pytest.approx(math.exp(-gap) / (1 + math.exp(-gap)), rel=1e-12, abs=0)
    assert pr > 0


def test_pr_orders_confident_images():
    pr = score([[gap, 0.0, 0.0] for gap in range(700)])["pr"]
    assert (np.diff(pr) < 0).all()


def test_pr_of_equal_logits_is_the_share_of_the_other_classes():
    np.testing.assert_array_equal(score([[5.0] * 4])["pr"], [0.75])


def test_pr_counts_the_other_classes_that_tie_with_the_largest():
    np.testing.assert_array_equal(score([[9.0, -800.0, 9.0]])["pr"], [0.5])


def test_pr_and_the_place_of_the_largest_logit():
    pr = score([[4.0, 1.0, 0.0], [0.0, 4.0, 1.0], [1.0, 0.0, 4.0]])["pr"]
    assert len(set(pr.tolist())) == 1


def test_huge_logits_do_not_overflow():
    scores = score([[1e30, -1e30], [-1e30, -1e30]])
    assert scores["pr"].tolist() == [0.0, 0.5]
    assert np.isfinite(scores["mls"]).all()


def test_every_rule_gives_an_unsure_and_distant_image_the_larger_score():
    distance = np.array([[0.1, 1.9], [0.9, 1.1]])
    scores = score([[8.0, -3.0], [0.6, 0.4]], distance)
    assert all(values[0] < values[1] for values in scores.values())


def test_every_score_belongs_to_its_own_image():
    generator = np.random.default_rng(0)
    distance, logits = generator.uniform(0, 2, (2, 20, 5))
    together = unknown_scores(distance, logits)
    for n in range(20):
        alone = unknown_scores(distance[n : n + 1], logits[n : n + 1])
        assert all(alone[rule][0] == together[rule][n] for rule in RULES)


def test_the_arguments_are_left_alone():
    distance, logits = np.random.default_rng(0).uniform(0, 2, (2, 4, 3))
    before = distance.copy(), logits.copy()
    unknown_scores(distance, logits)
    np.testing.assert_array_equal((distance, logits), before)
