import numpy as np
import pytest
from scipy import stats

from pmal_tf.results.collect import comparison
from pmal_tf.results.collect.comparison import paired_bootstrap
from pmal_tf.runtime.errors import PmalError


@pytest.mark.parametrize(("level", "n"), [(0.95, 8), (0.8, 10)])
def test_interval_is_scipys_percentile_interval(rng, monkeypatch, level, n):
    monkeypatch.setattr(comparison, "_LEVEL", level)
    monkeypatch.setattr(comparison, "_RESAMPLES", 50_000)
    b = rng.normal(0.7, 0.05, n)
    a = b + rng.normal(0.01, 0.02, n)
    found = paired_bootstrap(a, b)
    theirs = stats.bootstrap(
        (a - b,),
        np.mean,
        method="percentile",
        n_resamples=50_000,
        confidence_level=level,
        rng=1,
    ).confidence_interval
    assert found.mean_difference == pytest.approx(np.mean(a - b))
    # Two sets of draws differ by chance: the ends by about a hundredth of the width.
    width = theirs.high - theirs.low
    assert [found.low, found.high] == pytest.approx([*theirs], abs=0.03 * width)


def test_three_pairs_give_the_smallest_and_largest_difference():
    found = paired_bootstrap([0.5, 0.75, 1.0], [0.25, 0.25, 0.25])
    assert (found.low, found.high) == (0.25, 0.75)
    assert found.mean_difference == 0.5
    assert found.ahead
    assert not found.behind
    assert found.verdict == "ahead"
    # Trials differ by 0.2, the methods by 0.01 in each of them: pairs matter.
    assert paired_bootstrap([0.51, 0.71, 0.91], [0.5, 0.7, 0.9]).ahead
    assert not paired_bootstrap([0.5] * 5, [0.5] * 5).ahead


def test_an_interval_that_includes_0_is_nobodys():
    found = paired_bootstrap([0.6, 0.7, 0.8], [0.5, 0.5, 0.9])
    assert found.mean_difference > 0
    assert not found.ahead
    assert not found.behind
    assert found.verdict == "too close: interval includes 0"


def test_behind_is_the_mirror_of_ahead():
    a, b = [0.5, 0.6, 0.7, 0.8], [0.4, 0.5, 0.65, 0.7]
    ahead, behind = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert ahead.ahead
    assert behind.behind
    assert behind.verdict == "behind"
    assert behind.low == pytest.approx(-ahead.high)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_pairs_say_nothing(count):
    found = paired_bootstrap([0.9] * count, [0.1] * count)
    assert (found.low, found.high, found.ahead) == (None, None, False)
    assert found.verdict == f"too few pairs to say (n = {count})"
    assert found.mean_difference == pytest.approx(0.8)


def test_the_interval_is_the_same_every_time(rng):
    a, b = rng.normal(size=(2, 12))
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0.5], [0.5, 0.6], "a value each per trial.*Received: 1 and 2 values"),
        ([], [], "at least one trial. Received: 0 and 0"),
        ([0.5, float("nan")], [0.5, 0.5], "finite numbers. Received: a=.*nan"),
    ],
)
def test_values_that_do_not_pair_are_refused(a, b, message):
    with pytest.raises(PmalError, match=message):
        paired_bootstrap(a, b)
