"""Figures are made from run folders; what cannot be drawn stops nothing."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from made_runs import edit, make_trial, model
from PIL import Image
from tiny_run import trial_folder

from pmal_tf.results import figures as figures_package
from pmal_tf.results.collect.ablation_tables import ablation_tables
from pmal_tf.results.collect.run_folders import collect_runs, read_result
from pmal_tf.results.figures.benchmark_costs import draw_benchmark_costs
from pmal_tf.results.figures.curves import draw_roc, oscr_curve, roc_curve
from pmal_tf.results.figures.draw import draw_figures
from pmal_tf.results.figures.embeddings import FIGURES, draw_embeddings
from pmal_tf.results.figures.figure import Material, OfAll
from pmal_tf.results.figures.hyper_parameters import SweepPoint, draw_sweep
from pmal_tf.results.figures.overview import draw_overview
from pmal_tf.results.figures.repeated_mining import distance_to_nearest
from pmal_tf.results.figures.robustness import (
    draw_robustness_of_class,
    intervals,
    wilson_interval,
)
from pmal_tf.results.figures.style import COLOURS, flatten, some_rows
from pmal_tf.results.metrics import open_set_metrics
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json, save_arrays

# Of the digits' six classes, little is drawn: t-SNE takes a second or two.
KINDS = ("robustness_of_class", "robustness_accuracy", "embeddings", "repeated_mining")
CURVES = ("roc", "oscr", "scores")


def pairs_by_number(material):
    (figure,) = (f for f in FIGURES if isinstance(f, OfAll))
    return list(figure.subjects(material))


def texts(svg):
    # Matplotlib leaves each text as a comment beside its outlines.
    return [text.strip() for text in re.findall("<!--(.*?)-->", svg.read_text(), re.S)]


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
    material = Material({"tiny": [trial]}, ["tiny"], benchmarks=[benchmark])
    figures, skipped = draw_figures(material, folder / "out")
    return {figure.name: figure for figure in figures}, skipped


def test_a_finished_trial_has_all_its_figures(drawn):
    figures, skipped = drawn
    assert not skipped
    assert set(figures) == {
        *(f"tiny_{kind}" for kind in (*KINDS, *CURVES)),
        "costs",
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
    assert figures["tiny_scores"].title.endswith("unknown images (PMAL)")
    stars = "unknown ones grey, prototypes as stars."
    assert figures["tiny_embeddings"].caption.endswith(stars)
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
    save_arrays(trial / "scores.npz", arrays)
    (trial / "prototype_embeddings.npz").unlink()
    material = Material({"tiny": [trial]}, ["tiny"])
    figures, skipped = draw_figures(material, tmp_path / "out")
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


def write_scores(trial, models, label=(0,) * 6 + (1,) * 6 + (-1,) * 12, embeds=True):
    """Writes a trial's score files; a model has the scores that its metrics tell of."""
    rng, label = np.random.default_rng(0), np.array(label)
    for name, file in read_result(trial)["files"].items():
        scores = {n: rng.random(len(label)) for n in ("dr", "pr", "mls", "energy")}
        arrays = {"is_unknown": label < 0, "class_index": label, "predicted": label}
        arrays |= {n: scores[n] for n in scores if n in models[name]}
        embedding = {"embedding": rng.normal(size=(len(label), 4))} if embeds else {}
        save_arrays(trial / file, {**arrays, **embedding})


ARPL = {
    **{"method": "arpl", "baseline": "softmax", "compare": ["softmax"]},
    "models": {
        "arpl": {**model(dr=None, pr=None), "energy": {"auroc": 0.5}},
        "softmax": model(dr=None),
    },
}


def test_another_method_is_drawn_by_its_own_scores(tmp_path):
    trial = make_trial(tmp_path / "a", 0, **ARPL, known=["cat", "dog"])
    (trial / "mining" / "done.json").unlink()
    (trial / "mining").rmdir()
    write_scores(trial, ARPL["models"])
    figures, skipped = draw_figures(Material({"a": [trial]}, ["a"]), tmp_path / "out")
    by_name = {figure.name: figure for figure in figures}
    assert set(by_name) == {"a_roc", "a_oscr", "a_scores", "a_embeddings"}
    titles = texts(by_name["a_roc"].svg)
    assert [n for n in titles if n in ("DR", "PR", "MLS", "Energy")] == [
        *("MLS", "Energy", "PR")
    ]
    # MLS is of both, Energy of ARPL alone, and PR of softmax.
    legends = [re.sub(r" \d+\.\d$", "", text) for text in titles]
    assert legends.count("ARPL") == legends.count("softmax (M^1)") == 2
    assert by_name["a_scores"].title == "Scores of known and unknown images (ARPL)"
    assert by_name["a_embeddings"].caption.endswith("unknown ones grey.")
    reasons = {each.name: each.reason for each in skipped}
    assert set(reasons) == {
        *("a_robustness_of_class", "a_robustness_accuracy", "a_repeated_mining")
    }
    for reason in reasons.values():
        assert "of ARPL, without any: the method does without" in reason


def test_an_overview_is_of_the_method_s_own_score(tmp_path):
    trial = make_trial(tmp_path / "a", 0, **ARPL, known=["cat", "dog"])
    with pytest.raises(PmalError, match=r"evaluated trial\. .*scores_arpl\.npz"):
        draw_overview(trial, tmp_path / "overview.svg")
    write_scores(trial, ARPL["models"])
    draw_overview(trial, tmp_path / "overview.svg")
    shown = texts(tmp_path / "overview.svg")
    assert "MLS: - the largest logit" in shown
    assert "Test images, AUROC 75.0 %" in shown
    assert "Mined prototypes, in order of selection" not in shown


def test_a_method_alone_or_without_embeddings_has_no_such_figure(tmp_path):
    models = {"pmal": model(), "softmax": model()}
    trial = make_trial(tmp_path / "a", 0, models=models)
    write_scores(trial, models, embeds=False)
    with pytest.raises(PmalError, match=r"softmax \(M\^1\), of which .*keeps none"):
        draw_embeddings(trial, tmp_path, "none")
    edit(trial / "result.json", models={"pmal": model()})
    with pytest.raises(PmalError, match=r"two methods\. Received: PMAL alone in"):
        draw_embeddings(trial, tmp_path, "none")


def test_runs_of_one_and_ten_prototypes_stand_beside_each_other(tmp_path):
    models = {"pmal": model()}
    trials = {}
    for name, settings in (
        ("base", {}),
        ("one", {"prototypes_per_class": 1, "scores": ["dr"]}),
        ("five", {"prototypes_per_class": 5}),
        ("longer", {"prototypes_per_class": 1, "epochs": 9}),
    ):
        folder = tmp_path / "runs" / name
        trial = make_trial(folder, 0, models=models, known=["cat", "dog"], **settings)
        write_scores(trial, models)
        trials[name] = [trial]
    figures, skipped = draw_figures(Material(trials, []), tmp_path / "out")
    assert [figure.name for figure in figures] == ["base_prototype_number"]
    assert not skipped
    shown = texts(figures[0].svg)
    assert shown.index("T = 1") < shown.index("T = 10")
    # Neither versions nor fingerprints of images are settings.
    marker = trials["one"][0] / "evaluate" / "done.json"
    inputs = read_json(marker)["inputs"]
    other = {"version of keras": "3.14", "test": "others", "training": "some"}
    edit(marker, inputs={**inputs, **other})
    pairs = dict(pairs_by_number(Material(trials, [])))
    assert pairs == {"base_prototype_number": [*trials["one"], *trials["base"]]}
    edit(marker, inputs=None)
    assert draw_figures(Material(trials, []), tmp_path / "out") == ([], [])
    marker.unlink()
    assert draw_figures(Material(trials, []), tmp_path / "out") == ([], [])


def test_runs_of_other_seeds_or_trials_do_not_stand_beside_each_other(tmp_path):
    base = make_trial(tmp_path / "base", 0)
    for name, trial, seed in (("seed", 0, 1), ("trial", 1, 0)):
        settings = {"prototypes_per_class": 1, "seed": seed}
        one = make_trial(tmp_path / name, trial, **settings)
        assert not pairs_by_number(Material({"base": [base], name: [one]}, []))


def test_rows_of_table_5_are_drawn(tmp_path):
    for name, auroc, settings in (("base", 0.7, {}), ("low", 0.6, {"epsilon": 0.1})):
        models = {"pmal": model(dr=auroc)}
        make_trial(tmp_path / "runs" / name, 0, models=models, **settings)
    tables = ablation_tables(collect_runs(tmp_path / "runs"))
    (figure,), skipped = draw_figures(Material({}, [], tables), tmp_path / "out")
    assert not skipped
    assert figure.name == "table_5_epsilon_0"
    assert figure.caption == "AUROC DR on cifar10. n = 1 trial a point."


def test_a_new_figure_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "my_figure.py").write_text(
        "from pmal_tf.results.figures.figure import Drawn, OfTrial\n"
        "def draw(trial, out, name):\n"
        "    return Drawn(name, str(trial), '', out, out)\n"
        "FIGURES = (OfTrial('mine', draw),)\n"
    )
    monkeypatch.setattr(figures_package, "__path__", [str(tmp_path)])
    material = Material({"a": [tmp_path], "b": [tmp_path]}, ["b"])
    (figure,), skipped = draw_figures(material, tmp_path)
    assert (figure.name, figure.title, skipped) == ("b_mine", str(tmp_path), [])


def test_curves_need_unknown_images(tmp_path):
    models = {"pmal": model()}
    trial = make_trial(tmp_path / "a", 0, models=models)
    write_scores(trial, models, label=[0, 1] * 5)
    with pytest.raises(PmalError, match=r"need known and unknown test images.* 0 unkn"):
        draw_roc(trial, tmp_path, "curves")


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
