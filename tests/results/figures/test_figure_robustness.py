import itertools
import re
import shutil

import numpy as np
import pytest
from made_runs import edit, make_trial, model

from pmal_tf.results.figures.class_sheets import collect_sheets
from pmal_tf.results.figures.robustness import (
    draw_robustness_accuracy,
    draw_robustness_of_class,
    intervals,
)
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays


@pytest.fixture
def trial(tmp_path):
    """Fifty images of each of two classes; M^1 is right where r is 0.5 or more."""
    folder = make_trial(tmp_path / "digits", 0, dataset="digits", known=["one", "two"])
    mining = folder / "mining"
    r = np.arange(100) / 100
    label = np.arange(100) % 2
    ids = np.array([f"train_{number:02d}" for number in range(100)])
    predicted = np.where(r >= 0.5, label, 1 - label)
    mined = {"robustness": r, "class_index": label, "predicted_0": predicted}
    np.savez(mining / "robustness.npz", example_id=ids, **mined)
    chosen = {"robustness": r[[98, 96, 99]], "class_index": label[[98, 96, 99]]}
    np.savez(mining / "prototypes.npz", **chosen)
    image = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), np.uint8)
    selection = [np.array([98, 96]), np.array([99])]
    sheets = collect_sheets(
        image, label, r, ids, selection, per_strip=3, most_classes=2
    )
    save_arrays(mining / "sheets.npz", sheets)
    return folder


def test_a_class_is_shown_with_its_distribution_and_its_images(trial):
    drawn = draw_robustness_of_class(trial)
    top, *sheets = drawn.figure.axes
    assert sum(bar.get_height() for bar in top.patches[:40]) == 50
    assert [axes.get_title() for axes in sheets] == [
        "lowest: r 0.000 to 0.040",
        "median: r 0.480 to 0.520",
        "highest: r 0.940 to 0.980",
    ]
    # Three images of 8 pixels with gaps of 2.
    assert {axes.images[0].get_array().shape for axes in sheets} == {(12, 32, 3)}
    assert top.lines[0].get_xdata().tolist() == [0.98, 0.96]
    assert "r of the 50 training images of one;" in drawn.caption
    assert drawn.title == "Robustness of one"


@pytest.mark.parametrize("class_index", [2, -1])
def test_a_class_that_is_not_there_has_no_figure(trial, class_index):
    with pytest.raises(PmalError, match=rf"Received: class {class_index} of 2 in "):
        draw_robustness_of_class(trial, class_index)


def test_a_class_whose_images_were_not_collected_has_no_figure(trial):
    path = trial / "mining" / "sheets.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name][stored["class_index"] == 0] for name in stored}
    np.savez(path, **arrays)
    with pytest.raises(PmalError, match=r"of the first 1\. Received: class 1 \(two\)"):
        draw_robustness_of_class(trial, 1)


def test_a_trial_in_which_nothing_was_mined_has_no_figure(trial):
    edit(
        trial / "result.json",
        method="arpl",
        titles={"arpl": "ARPL"},
        models={"arpl": model()},
    )
    shutil.rmtree(trial / "mining")
    for draw in (draw_robustness_of_class, draw_robustness_accuracy):
        with pytest.raises(PmalError, match=r"of ARPL, without any: .* does without"):
            draw(trial)


def test_accuracy_stands_at_the_median_of_each_interval(trial):
    drawn = draw_robustness_accuracy(trial)
    top, bottom = drawn.figure.axes
    assert sum(bar.get_height() for bar in top.patches) == 100
    # Five intervals of twenty: r of the third is 0.40 to 0.59, half of them right.
    points = bottom.containers[0].lines[0].get_xydata()
    medians = [0.095, 0.295, 0.495, 0.695, 0.895]
    np.testing.assert_allclose(points[:, 0], medians)
    np.testing.assert_allclose(points[:, 1], [0, 0, 50, 100, 100])
    # Wilson's interval of 10 of 20, from the literature's formula by hand.
    segment = bottom.containers[0].lines[2][0].get_segments()[2]
    np.testing.assert_allclose(segment[:, 1], [29.93, 70.07], atol=0.01)
    assert re.search(r"5 intervals of r with 20 images each.*50\.0 %", drawn.caption)


def test_intervals_of_robustness_hold_equally_many_images_in_order(rng):
    robustness = rng.random(205)
    parts = intervals(robustness)
    assert sorted(np.concatenate(parts)) == list(range(205))
    assert {len(part) for part in parts} == {20, 21}
    ends = [(robustness[p].min(), robustness[p].max()) for p in parts]
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(ends))
    with pytest.raises(PmalError, match=r"need 40 training images\. Received: 39"):
        intervals(robustness[:39])
