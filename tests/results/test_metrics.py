import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from pmal_tf.results.metrics import (
    closed_set_metrics,
    detection_accuracy,
    fpr_at_95_tpr,
    open_set_metrics,
    oscr,
)
from pmal_tf.runtime.errors import PmalError


def random_scores(seed, ties):
    generator = np.random.default_rng(seed)
    known = generator.normal(0.0, 1.0, generator.integers(1, 60))
    unknown = generator.normal(0.7, 1.5, generator.integers(1, 60))
    if ties:
        known, unknown = np.round(known), np.round(unknown)
    return known, unknown, generator.random(len(known)) < 0.7


RANDOM = [random_scores(seed, ties) for seed in range(20) for ties in (True, False)]


@pytest.mark.parametrize(("known", "unknown", "correct"), RANDOM)
def test_metrics_equal_slow_independent_versions(known, unknown, correct):
    result = open_set_metrics(known, unknown, correct)
    ordered = np.array([[(k < u) + (k == u) / 2 for u in unknown] for k in known])
    auroc, area = ordered.mean(), (ordered * correct[:, None]).mean()
    assert result["auroc"] == pytest.approx(auroc, rel=1e-12, abs=1e-15)
    assert result["oscr"] == pytest.approx(area, rel=1e-12, abs=1e-15)
    assert result["oscr"] <= min(correct.mean(), result["auroc"]) + 1e-12
    thresholds = np.unique(np.concatenate([known, unknown]))
    # OSCR is the area under its curve, too.
    rate = [0.0] + [np.mean((known <= t) & correct) for t in thresholds]
    false_rate = [0.0] + [np.mean(unknown <= t) for t in thresholds]
    by_trapezoids = sklearn_metrics.auc(false_rate, rate)
    assert result["oscr"] == pytest.approx(by_trapezoids, rel=1e-12, abs=1e-15)
    accepted = [
        np.mean(unknown <= t)
        for t in thresholds
        if 100 * np.sum(known <= t) >= 95 * len(known)
    ]
    assert result["fpr95"] == min(accepted)
    balanced = [
        (np.mean(known <= t) + np.mean(unknown > t)) / 2 for t in (-np.inf, *thresholds)
    ]
    assert result["dtacc"] == pytest.approx(max(balanced), rel=1e-12)
    score = np.concatenate([known, unknown])
    is_unknown = np.repeat([0, 1], [len(known), len(unknown)])
    for name, positive, sign in (("in", 1 - is_unknown, -1), ("out", is_unknown, 1)):
        expected = sklearn_metrics.average_precision_score(positive, sign * score)
        assert result[f"aupr_{name}"] == expected
    order = np.random.default_rng(1).permutation(len(known))
    shuffled = open_set_metrics(known[order], unknown[::-1], correct[order])
    assert shuffled == pytest.approx(result)


def test_accuracy_and_macro_f1_by_hand():
    # F1 of class 0: 2/3 (precision 1, recall 1/2); of 1: 1/2 (1/3, 1); of 2: 0.
    result = closed_set_metrics(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert result["acc"] == 0.5
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 3, rel=1e-12)
    # A class that does not occur counts as 0.
    result = closed_set_metrics(np.array([0, 1]), np.array([0, 1]), 4)
    assert result == {"acc": 1.0, "macro_f1": 0.5}


def test_oscr_by_hand_with_ties_counting_half():
    known = np.array([1.0, 2.0, 3.0])
    unknown = np.array([1.0, 2.0, 4.0])
    # 1 against 1, 2, 4: 1/2 + 1 + 1; 2: 0 + 1/2 + 1; 3: 0 + 0 + 1. Of 9 pairs.
    all_right = np.array([True, True, True])
    assert oscr(known, unknown, all_right) == 5.0 / 9
    assert oscr(known, unknown, np.array([True, False, True])) == 3.5 / 9
    assert oscr(known, unknown, np.array([False, True, False])) == 1.5 / 9
    assert oscr(known, unknown, ~all_right) == 0.0


def test_open_set_metrics_by_hand():
    known, unknown = np.array([1.0, 3.0]), np.array([2.0, 4.0])
    result = open_set_metrics(known, unknown, np.array([True, False]))
    # Ordered pairs: 1-2, 1-4, 3-4 of four. Knowns from below: 1, then 3 as the third;
    # unknowns from above: 4, then 2 as the third: precision 1 and 2/3, half each.
    assert result == {
        "auroc": 0.75,
        "oscr": 0.5,
        "aupr_in": pytest.approx(1 / 2 + 2 / 3 / 2),
        "aupr_out": pytest.approx(1 / 2 + 2 / 3 / 2),
        "fpr95": 0.5,
        "dtacc": 0.75,
    }


def test_aupr_tells_which_side_is_positive():
    known, unknown = np.array([0.0, 1.0, 2.0]), np.array([3.0, 0.5])
    result = open_set_metrics(known, unknown, np.ones(3, bool))
    # Knowns from below: ranks 1, 3, 4. Unknowns from above: ranks 1, 4.
    assert result["aupr_in"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert result["aupr_out"] == pytest.approx((1 / 1 + 2 / 4) / 2)


def test_fpr95_by_hand():
    known = np.arange(1.0, 21.0)
    # 19 of 20 knowns lie at or below 19, and so do 18.5 and 19.
    assert fpr_at_95_tpr(known, np.array([18.5, 19.0, 19.5, 25.0])) == 0.5
    # Of 19 knowns 18 are too few (94.7 %): all must be accepted.
    assert fpr_at_95_tpr(known[:19], np.array([18.5, 19.0, 19.5, 25.0])) == 0.5
    assert fpr_at_95_tpr(known[:19], np.array([18.5, 19.5, 19.5, 25.0])) == 0.25


def test_detection_accuracy_by_hand():
    # Threshold 2 accepts 2 of 3 knowns and rejects 1 of 2 unknowns; 1 rejects both.
    known, unknown = np.array([1.0, 2.0, 5.0]), np.array([2.0, 4.0])
    assert detection_accuracy(known, unknown) == pytest.approx((1 / 3 + 1) / 2)
    # Scores the wrong way round are worth as much as none.
    assert detection_accuracy(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 0.5


@pytest.mark.parametrize("side", ["known", "unknown"])
@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf], [-np.inf, 0.0]])
def test_an_empty_side_or_a_score_that_is_no_number_is_an_error(side, scores):
    sides = {"known": np.array([1.0]), "unknown": np.array([2.0])}
    sides[side] = np.array(scores)
    correct = np.ones(len(sides["known"]), bool)
    with pytest.raises(PmalError, match=f"finite scores of {side} images"):
        open_set_metrics(sides["known"], sides["unknown"], correct)
