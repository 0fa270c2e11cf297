import math

import pytest

from pmal_tf.results.collect.paper import SYMBOLS
from pmal_tf.results.figures.hyper_parameters import draw_sweep
from pmal_tf.runtime.errors import PmalError

THREE = [0.59, 0.6, 0.61]  # Their sample deviation is 0.01.


def bars(axes):
    """Lengths of error bars, from left to right; None where there is none."""
    segments = axes.containers[0].lines[2][0].get_segments()
    heights = [float(s[1, 1] - s[0, 1]) if len(s) else math.nan for s in segments]
    return [None if math.isnan(height) else round(height, 6) for height in heights]


def test_values_stand_in_order_in_both_panels():
    measured = {value: [value / 20] for value in (10, 1, 5)}
    paper = {10: 83.1, 1: 79.9, 3: 81.0}
    picture = draw_sweep("epsilon", measured, paper=paper)
    ours, theirs = picture.figure.axes
    shown = [tick.get_text() for tick in theirs.get_xticklabels()]
    assert shown == ["1", "3", "5", "10"]
    assert ours.containers[0].lines[0].get_xydata().tolist() == [
        *([0, 5], [2, 25], [3, 50])
    ]
    assert theirs.lines[0].get_xydata().tolist() == [[0, 79.9], [1, 81.0], [3, 83.1]]
    assert theirs.get_title() == "paper (TinyImageNet, WRN-40-4)"
    # Of one trial a point no bars are told.
    assert picture.caption == "n = 1 trial a point."


def test_one_trial_has_no_error_bar():
    picture = draw_sweep("epsilon", {1: [0.6], 5: THREE}, caption="CIFAR-10.")
    assert bars(picture.figure.axes[0]) == [None, 2.0]
    assert picture.caption == (
        "CIFAR-10. n = 1 to 3 trials a point. Bars: one standard deviation over trials."
    )


def test_words_follow_numbers_at_equal_distances_without_a_line():
    measured = {value: [0.6] for value in ("none", True, 0.5, None)}
    (axes,) = draw_sweep("diversity", measured).figure.axes
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert shown == ["0.5", "None", "True", "none"]
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]
    assert axes.containers[0].lines[0].get_linestyle() == "None"


def test_the_paper_s_letters_stand_beside_names():
    for parameter, symbol in SYMBOLS.items():
        picture = draw_sweep(parameter, {1: THREE, 5: THREE})
        label = f"{parameter.replace('_', ' ')} {symbol}"
        assert picture.title == f"AUROC against {label}"
        assert picture.figure.axes[0].get_xlabel() == label
    assert draw_sweep("width", {1: [0.5], 2: [0.5]}).title == "AUROC against width"


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_points_are_no_figure(count):
    with pytest.raises(PmalError, match=rf"two of its values\. Received: {count}"):
        draw_sweep("margin", {value: [0.6] for value in range(count)})
