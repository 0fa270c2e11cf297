import pytest

from pmal_tf.benchmark.growth import Growth, measure_growth
from pmal_tf.benchmark.measurement import Times
from pmal_tf.runtime.errors import PmalError


def test_growth_is_the_power_that_times_were_made_with():
    # The median of three is meant, not their mean.
    times = {
        size: Times((3e-6 * size**1.75, 0.0, 1e9)) for size in (10, 20, 40, 80, 500)
    }
    growth = Growth.fit(times)
    assert growth.exponent == pytest.approx(1.75)
    assert growth.factor == pytest.approx(3e-6)


def test_classes_that_the_budget_has_no_room_for_are_left_out():
    def at_most_12(embeddings, kernels):
        if kernels[0].shape[1] > 12:
            raise PmalError("too many classes")

    found = measure_growth(64, 3, at_most_12, None)
    of_samples, of_classes = found.sentences
    assert "from 8 to 64." in of_samples
    assert "from 3 to 12. No more than 12: too many classes." in of_classes
    assert [each.name for each in found.measurements] == [
        "exponent_of_n",
        "exponent_of_k",
    ]
