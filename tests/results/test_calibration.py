import itertools
import re
from fractions import Fraction

import numpy as np
import pytest

from pmal_tf.data.hashing import hash_ids
from pmal_tf.results.calibration import (
    WITHHELD,
    calibrate,
    calibrate_on_half,
    conformal_threshold,
    rate_interval,
)
from pmal_tf.runtime.errors import PmalError


@pytest.mark.parametrize(
    ("count", "rate", "position"),
    # 20 * 0.95 = 19: the largest; 21 * 0.95 = 19.95; 40 * 0.95 = 38; 4 * 0.25 = 1.
    [(19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (3, 0.75, 1)],
)
def test_the_threshold_is_the_kth_smallest_score(count, rate, position):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert conformal_threshold(scores, rate) == position


def test_no_smaller_score_would_keep_the_promise():
    # A further score is equally likely to take each of the n + 1 ranks, so the k-th
    # smallest is exceeded with probability (n + 1 - k) / (n + 1).
    for count, rate in itertools.product(range(1, 120), (0.01, 0.05, 0.1, 0.25, 0.9)):
        allowed, ranks = Fraction(str(rate)), range(1, count + 1)
        kept = [k for k in ranks if Fraction(count + 1 - k, count + 1) <= allowed]
        if kept:
            assert conformal_threshold(np.arange(1.0, count + 1), rate) == kept[0]
        else:
            with pytest.raises(PmalError):
                conformal_threshold(np.arange(1.0, count + 1), rate)


def test_the_least_number_named_is_enough_and_least():
    for thousandths in range(1, 1000):
        rate = thousandths / 1000
        with pytest.raises(PmalError, match=r"Received: 0\.") as raised:
            conformal_threshold(np.array([]), rate)
        least = int(re.search(r"at least (\d+)", str(raised.value)).group(1))
        assert conformal_threshold(np.arange(float(least)), rate) == least - 1
        with pytest.raises(PmalError):
            conformal_threshold(np.arange(least - 1.0), rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_a_rate_outside_of_0_and_1_is_an_error(rate):
    with pytest.raises(PmalError, match=r"`reject_rate` must lie in \(0, 1\)"):
        conformal_threshold(np.arange(100.0), rate)
    with pytest.raises(PmalError, match=r"finite numbers\. Received: 1 that"):
        conformal_threshold(np.array([np.nan, *np.arange(99.0)]), 0.05)


def make_scores(known=61, unknown=30):
    generator = np.random.default_rng(0)
    count = known + unknown
    is_unknown = generator.permutation(np.arange(count) >= known)
    return {
        "scores": {
            "dr": generator.random(count) + 0.4 * is_unknown,
            "mls": generator.normal(size=count) + is_unknown,
        },
        "is_unknown": is_unknown,
        "example_id": np.array([f"test_{n}" for n in range(count)]),
    }


def calibrate_slowly(scores, is_unknown, example_id, reject_rate, seed):
    hashed = hash_ids(example_id, "calibration", seed).tolist()
    known = [n for n in range(len(hashed)) if not is_unknown[n]]
    known.sort(key=lambda n: hashed[n])
    half = -(-len(known) // 2)
    rules = {}
    for rule, score in scores.items():
        threshold = conformal_threshold(score[known[:half]], reject_rate)
        rejected = [score[n] > threshold for n in known[half:]]
        unknown = [score[n] > threshold for n in range(len(score)) if is_unknown[n]]
        rules[rule] = {
            "threshold": threshold,
            "known_rejected": sum(rejected) / len(rejected),
            "unknown_rejected": sum(unknown) / len(unknown),
        }
    return rules, half, len(known) - half


@pytest.mark.parametrize("known", [60, 61])
@pytest.mark.parametrize("seed", [0, 1])
def test_rates_are_measured_on_the_half_that_was_not_used(known, seed):
    images = make_scores(known)
    result = calibrate_on_half(**images, reject_rate=0.2, seed=seed)
    rules, used, measured = calibrate_slowly(**images, reject_rate=0.2, seed=seed)
    assert result["rules"] == rules
    assert (result["calibration_images"], result["measured_images"]) == (used, measured)
    assert result["reject_rate"] == 0.2
    assert "half" in result["source"]


def test_halves_depend_on_the_seed_and_not_on_the_order_of_images():
    images = make_scores()
    order = np.random.default_rng(1).permutation(len(images["is_unknown"]))
    shuffled = {
        "scores": {rule: score[order] for rule, score in images["scores"].items()},
        "is_unknown": images["is_unknown"][order],
        "example_id": images["example_id"][order],
    }
    one, other, another = (
        calibrate_on_half(**each, reject_rate=0.1, seed=seed)
        for each, seed in ((images, 0), (shuffled, 0), (images, 1))
    )
    assert one == other
    assert one["rules"] != another["rules"]


def test_thresholds_do_not_depend_on_unknown_images():
    images = make_scores()
    before = calibrate_on_half(**images, reject_rate=0.1, seed=0)["rules"]["dr"]
    images["scores"]["dr"][images["is_unknown"]] = 99.0
    after = calibrate_on_half(**images, reject_rate=0.1, seed=0)["rules"]["dr"]
    assert after == {**before, "unknown_rejected": 1.0}


@pytest.mark.parametrize("known", [36, 4, 2, 1])
def test_too_few_images_get_the_smallest_promise_that_can_be_kept(known, caplog):
    images = make_scores(known=known)
    calibration = calibrate_on_half(**images, reject_rate=0.05, seed=0)
    used = (known + 1) // 2
    assert calibration["calibration_images"] == used
    assert calibration["reject_rate"] == pytest.approx(1 / (used + 1))
    assert f"with {used} to calibrate on" in caplog.text
    # Nothing it was calibrated on is rejected, and none was left to measure on of one.
    for rule in calibration["rules"].values():
        assert (rule["known_rejected"] is None) == (known == 1)


def test_withheld_images_set_the_threshold_and_all_test_images_measure_it():
    scores = {"dr": np.arange(1.0, 20.0)}
    known, unknown = {"dr": np.array([18.5, 19.5, 1.0, 18.0])}, {"dr": np.array([30.0])}
    result = calibrate(scores, known, unknown, reject_rate=0.1, source=WITHHELD)
    # ceil(20 * 0.9) = 18, so 18.0; two of four known images are above, one ties.
    assert result["rules"]["dr"] == {
        **{"threshold": 18.0, "known_rejected": 0.5, "unknown_rejected": 1.0},
    }
    assert result["source"] == WITHHELD
    counts = [result[f"{name}_images"] for name in ("calibration", "measured")]
    assert [*counts, result["unknown_images"]] == [19, 4, 1]
    nothing = {"dr": np.array([])}
    result = calibrate(scores, known, nothing, reject_rate=0.1, source=WITHHELD)
    assert result["rules"]["dr"]["unknown_rejected"] is None
    with pytest.raises(PmalError, match=r"Received: none\. .* --calibration_fraction"):
        calibrate(nothing, nothing, nothing, reject_rate=0.1, source=WITHHELD)


@pytest.mark.parametrize(
    ("count", "rate", "promised"),
    [(99, 0.1, 0.1), (19, 0.05, 0.05), (25, 0.1, 2 / 26), (500, 0.05, 25 / 501)],
)
def test_the_promise_holds_on_average_and_mostly_within_the_interval(
    count, rate, promised
):
    # Uniform scores: a threshold rejects a further image with probability 1 - it.
    scores = np.random.default_rng(0).random((4000, count))
    rates = 1.0 - np.array([conformal_threshold(score, rate) for score in scores])
    # The mean of (n + 1 - k) / (n + 1); its standard error is below 0.001.
    assert np.mean(rates) == pytest.approx(promised, abs=0.003)
    low, high = rate_interval(count, rate)
    # The standard error of each share is 0.0034.
    assert np.mean(rates < low) == pytest.approx(0.05, abs=0.012)
    assert np.mean(rates > high) == pytest.approx(0.05, abs=0.012)
