"""Figures are made from run folders; what cannot be drawn stops nothing."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_run import trial_folder

from pmal_tf.errors import PmalError
from pmal_tf.evaluation.metrics import open_set_metrics
from pmal_tf.reports.figures.benchmark_costs import draw_benchmark_costs
from pmal_tf.reports.figures.curves import draw_curves, oscr_curve, roc_curve
from pmal_tf.reports.figures.draw import draw_figures
from pmal_tf.reports.figures.hyper_parameters import SweepPoint, draw_sweep
from pmal_tf.reports.figures.repeated_mining import distance_to_nearest
from pmal_tf.reports.figures.robustness import (
    draw_robustness_of_class,
    intervals,
    wilson_interval,
)
from pmal_tf.reports.figures.style import COLOURS, flatten, some_rows

# Of the digits' six classes, little is drawn: t-SNE takes a second or two.
KINDS = ("robustness_of_class", "robustness_accuracy", "embeddings")


@pytest.fixture(scope="module")
def drawn(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    trial = folder / "tiny" / "trial_0"
    shutil.copytree(trial_folder(finished[0]), trial)
    for repeat in (1, 2):  # As --mining_repeats=2 leaves them, with the same choice.
        path = trial / "mining" / f"repeat_{repeat}" / "prototypes.npz"
        path.parent.mkdir()
        shutil.copy(trial / "mining" / "prototypes.npz", path)
    benchmark = folder / "benchmark.json"
    entry = {"name": "speed", "value": 2.0, "unit": "x", "ours": 1.0, "reference": 2.0}
    benchmark.write_text(json.dumps([entry]))
    figures, skipped = draw_figures({"tiny": [trial]}, folder / "out", [benchmark])
    return {figure.name: figure for figure in figures}, skipped


def test_a_finished_trial_has_all_its_figures(drawn):
    figures, skipped = drawn
    assert not skipped
    assert set(figures) == {
        *(f"tiny_{kind}" for kind in KINDS),
        *("tiny_repeated_mining", "tiny_roc", "tiny_oscr", "tiny_scores", "costs"),
    }
    for figure in figures.values():
        with Image.open(figure.png) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
        assert figure.svg.read_text().startswith("<?xml")
        assert figure.caption


def test_captions_tell_what_a_figure_is_of(drawn):
    figures, _ = drawn
    assert "digits, protocol neal, trial 0" in figures["tiny_roc"].caption
    # The repetitions chose the same images.
    caption = figures["tiny_repeated_mining"].caption
    assert "0.000 and 0.000" in caption
    assert "Same images: 3 and 3 of 3." in caption


def test_what_cannot_be_drawn_is_told_and_stops_nothing(finished, tmp_path):
    trial = tmp_path / "trial_0"
    shutil.copytree(trial_folder(finished[0]), trial)
    (trial / "mining" / "sheets.npz").unlink()
    with np.load(trial / "scores.npz") as scores:
        arrays = {name: scores[name][:4] for name in scores.files}
    np.savez(trial / "scores.npz", **arrays)
    (trial / "prototype_embeddings.npz").unlink()
    figures, skipped = draw_figures({"tiny": [trial]}, tmp_path / "out")
    reasons = {each.name: each.reason for each in skipped}
    assert "sheets.npz is missing" in reasons["tiny_robustness_of_class"]
    assert "Run with --mining_repeats=2." in reasons["tiny_repeated_mining"]
    assert "too few points for t-SNE" in reasons["tiny_embeddings"]
    assert "tiny_robustness_accuracy" in {figure.name for figure in figures}


def scores_of(is_unknown, score, correct):
    predicted = np.where(correct, 0, 1)
    return {
        "is_unknown": is_unknown,
        "dr": score,
        "class_index": np.where(is_unknown, -1, 0),
        "predicted": predicted,
    }


def test_areas_under_the_drawn_curves_are_the_numbers_of_the_table(rng):
    is_unknown = rng.random(300) < 0.4
    correct = rng.random(300) < 0.8
    # Few values, so that many images of both sides tie.
    score = (rng.integers(0, 9, 300) + 2 * is_unknown).astype(np.float32)
    scores = scores_of(is_unknown, score, correct)
    metrics = open_set_metrics(
        score[~is_unknown], score[is_unknown], correct[~is_unknown]
    )
    area = np.trapezoid(*roc_curve(scores, "dr")[::-1])
    assert area == pytest.approx(metrics["auroc"], abs=1e-9)
    area = np.trapezoid(*oscr_curve(scores, "dr")[::-1])
    assert area == pytest.approx(metrics["oscr"], abs=1e-9)


def test_an_oscr_curve_by_hand():
    # Accepted in turn: a right known, an unknown, a wrong known, a right known.
    scores = scores_of(
        np.array([False, True, False, False]),
        np.array([0.1, 0.2, 0.3, 0.4]),
        np.array([True, True, False, True]),
    )
    x, y = oscr_curve(scores, "dr")
    np.testing.assert_allclose(x, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(y, [0, 1 / 3, 1 / 3, 1 / 3, 2 / 3])


def test_curves_need_unknown_images(finished, tmp_path):
    trial = tmp_path / "trial_0"
    shutil.copytree(trial_folder(finished[0]), trial)
    for path in trial.glob("scores*.npz"):
        with np.load(path) as scores:
            known = ~scores["is_unknown"]
            arrays = {name: scores[name][known] for name in scores.files}
        np.savez(path, **arrays)
    with pytest.raises(PmalError, match=r"need known and unknown test images.* 0 unkn"):
        draw_curves(trial, tmp_path, "curves")


def test_intervals_of_robustness_hold_equally_many_images_in_order(rng):
    robustness = rng.random(205)
    parts = intervals(robustness)
    assert sorted(np.concatenate(parts)) == list(range(205))
    assert {len(part) for part in parts} == {20, 21}
    ends = [(robustness[p].min(), robustness[p].max()) for p in parts]
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(ends))
    with pytest.raises(PmalError, match=r"need 40 training images\. Received: 39"):
        intervals(robustness[:39])


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (7, 10), (10, 10), (45, 90)])
def test_wilson_intervals_are_those_of_scipy(successes, count):
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    ours = wilson_interval(successes, count)
    np.testing.assert_allclose(ours, (interval.low, interval.high), atol=1e-4)


def test_a_class_that_is_not_there_has_no_figure(finished, tmp_path):
    with pytest.raises(PmalError, match="class 9 of 6"):
        draw_robustness_of_class(trial_folder(finished[0]), tmp_path, "none", 9)


def test_distances_between_repetitions_by_hand():
    points = np.array([[1.0, 0.0], [0.0, 1.0]])
    others = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert distance_to_nearest(points, others) == pytest.approx(0.5)


def test_a_sweep_stands_beside_the_paper_s(tmp_path):
    points = [SweepPoint(5, 0.62, 0.01, 3), SweepPoint(1, 0.6, None, 1)]
    alone = draw_sweep("prototypes_per_class", points, tmp_path, "alone")
    both = draw_sweep(
        *("prototypes_per_class", points, tmp_path, "both"), paper={1: 79.9, 5: 81.1}
    )
    assert "paper" not in alone.svg.read_text().casefold()
    assert "TinyImageNet" in both.svg.read_text()
    assert alone.caption.startswith("n = 1 to 3 trials a point.")
    words = [SweepPoint("none", 0.6, None, 1), SweepPoint("kmeans", 0.5, None, 1)]
    assert draw_sweep("diversity", words, tmp_path, "words").png.exists()
    with pytest.raises(PmalError, match=r"at least two of its values\. Received: 1"):
        draw_sweep("epsilon", points[:1], tmp_path, "one")
    assert not (tmp_path / "one.png").exists()


def test_the_same_figure_is_the_same_file(tmp_path):
    points = [SweepPoint(5, 0.62, 0.01, 3), SweepPoint(1, 0.6, None, 1)]
    files = [
        draw_sweep("epsilon", points, tmp_path / name, "same").svg.read_bytes()
        for name in "ab"
    ]
    assert files[0] == files[1]


def test_costs_need_a_reference(tmp_path):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps([{"name": "a", "value": 1, "unit": "s", "ours": 1}]))
    with pytest.raises(PmalError, match="needs measurements with a reference"):
        draw_benchmark_costs([path], tmp_path, "costs")


def test_too_few_points_cannot_be_laid_out(rng):
    with pytest.raises(PmalError, match="too few points for t-SNE, which needs 10"):
        flatten(rng.normal(size=(9, 4)))
    assert flatten(rng.normal(size=(10, 4))).shape == (10, 2)


def test_points_are_drawn_by_a_fixed_seed():
    rows = some_rows(1000, 50)
    assert len(set(rows)) == 50
    np.testing.assert_array_equal(rows, some_rows(1000, 50))
    np.testing.assert_array_equal(some_rows(3, 50), [0, 1, 2])


def test_colours_can_be_told_apart_by_anyone():
    assert len(set(COLOURS)) == 8
