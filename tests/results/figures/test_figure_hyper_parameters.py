import math

import pytest
from matplotlib.figure import Figure

from pmal_tf.results.collect.paper_ablations import SYMBOLS
from pmal_tf.results.figures import hyper_parameters
from pmal_tf.results.figures.hyper_parameters import SweepPoint, draw_sweep
from pmal_tf.runtime.errors import PmalError


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are when they are written."""
    kept = []

    def keep(figure, out, name, *, title, caption):
        kept.append(figure)
        return title, caption

    monkeypatch.setattr(hyper_parameters, "save", keep)
    return kept


def bars(axes):
    """Lengths of error bars, from left to right; None where there is none."""
    segments = axes.containers[0].lines[2][0].get_segments()
    heights = [float(s[1, 1] - s[0, 1]) if len(s) else math.nan for s in segments]
    return [None if math.isnan(height) else round(height, 6) for height in heights]


def test_values_stand_in_order_in_both_panels(figures, tmp_path):
    points = [SweepPoint(v, v / 20, 0.01, 3) for v in (10, 1, 5)]
    draw_sweep("epsilon", points, tmp_path, "x", paper={10: 83.1, 1: 79.9, 3: 81.0})
    ours, paper = figures[0].axes
    shown = [tick.get_text() for tick in paper.get_xticklabels()]
    assert shown == ["1", "3", "5", "10"]
    assert ours.containers[0].lines[0].get_xydata().tolist() == [
        *([0, 5], [2, 25], [3, 50])
    ]
    assert paper.lines[0].get_xydata().tolist() == [[0, 79.9], [1, 81.0], [3, 83.1]]
    assert paper.get_title() == "paper (TinyImageNet, WRN-40-4)"


def test_one_trial_has_no_error_bar(figures, tmp_path):
    points = [SweepPoint(1, 0.6, None, 1), SweepPoint(5, 0.62, 0.01, 3)]
    _, caption = draw_sweep("epsilon", points, tmp_path, "x", caption="CIFAR-10.")
    assert bars(figures[0].axes[0]) == [None, 2.0]
    assert caption.startswith("CIFAR-10. n = 1 to 3 trials a point. Bars: one standard")


def test_of_one_trial_a_point_no_bars_are_told(figures, tmp_path):
    points = [SweepPoint(v, 0.6, None, 1) for v in (1, 5)]
    _, caption = draw_sweep("epsilon", points, tmp_path, "x")
    assert caption == "n = 1 trial a point."


def test_words_follow_numbers_at_equal_distances_without_a_line(figures, tmp_path):
    values = ("none", True, 0.5, None)
    points = [SweepPoint(value, 0.6, None, 1) for value in values]
    draw_sweep("diversity", points, tmp_path, "x")
    (axes,) = figures[0].axes
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert shown == ["0.5", "None", "True", "none"]
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]
    assert axes.containers[0].lines[0].get_linestyle() == "None"


@pytest.mark.parametrize(("parameter", "symbol"), SYMBOLS.items())
def test_the_paper_s_letters_stand_beside_names(figures, tmp_path, parameter, symbol):
    points = [SweepPoint(v, 0.6, 0.1, 3) for v in (1, 5)]
    title, _ = draw_sweep(parameter, points, tmp_path, "x")
    assert title == f"AUROC against {parameter.replace('_', ' ')} {symbol}"
    assert isinstance(figures[0], Figure)
    assert figures[0].axes[0].get_xlabel().endswith(f" {symbol}")


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_points_are_no_figure(tmp_path, count):
    points = [SweepPoint(1, 0.6, None, 1)] * count
    with pytest.raises(PmalError, match=rf"two of its values\. Received: {count}"):
        draw_sweep("margin", points, tmp_path, "x")
