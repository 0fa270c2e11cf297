"""Figures are made from run folders; what cannot be drawn stops nothing."""

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
from pmal_tf.results.figures import style
from pmal_tf.results.figures.curves import (
    draw_overview,
    draw_roc,
    oscr_curve,
    roc_curve,
)
from pmal_tf.results.figures.embeddings import FIGURES, chosen_images, draw_embeddings
from pmal_tf.results.figures.figure import Material, OfAll, draw_figures
from pmal_tf.results.metrics import open_set_metrics
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json, save_arrays

CURVES = {"roc", "oscr", "scores", "overview"}
OF_MINING = {"robustness_of_class", "robustness_accuracy", "repeated_mining"}


def pairs_by_number(trials):
    (figure,) = (f for f in FIGURES if isinstance(f, OfAll))
    return dict(figure.subjects(Material(trials, [])))


def texts(svg):
    # Matplotlib leaves each text as a comment beside its outlines.
    return [text.strip() for text in re.findall("<!--(.*?)-->", svg.read_text(), re.S)]


def write_scores(trial, models, label=(0,) * 6 + (1,) * 6 + (-1,) * 12, embeds=True):
    """Writes a trial's score files; a model has the scores that its metrics tell of."""
    rng, label = np.random.default_rng(0), np.array(label)
    for name, file in read_result(trial)["files"].items():
        scores = {n: rng.random(len(label)) for n in ("dr", "pr", "mls", "energy")}
        arrays = {"is_unknown": label < 0, "class_index": label, "predicted": label}
        arrays |= {n: scores[n] for n in scores if n in models[name]}
        embedding = {"embedding": rng.normal(size=(len(label), 4))} if embeds else {}
        save_arrays(trial / file, {**arrays, **embedding})


def draw(trial):
    """Draws figure `mine_<kind>` of a trial; returns the figures, and reasons."""
    drawn, skipped = draw_figures(Material({"mine": [trial]}, ["mine"]), trial / "out")
    figures = {figure.name.removeprefix("mine_"): figure for figure in drawn}
    return figures, {n.removeprefix("mine_"): reason for n, reason in skipped.items()}


@pytest.fixture
def trial(tmp_path, any_layout):
    """A trial with all that curves, embeddings and the accuracy by r take."""
    models = {"pmal": model(), "softmax": model()}
    shape = {"dataset": "digits", "known": ["cat", "dog"], "models": models}
    folder = make_trial(tmp_path / "mine", 3, **shape)
    label = np.repeat([0, 1, -1], 20)
    write_scores(folder, models, label)
    known = label[label >= 0]
    mined = {"robustness": known / 2, "class_index": known, "predicted_0": known}
    save_arrays(folder / "mining" / "robustness.npz", mined)
    return folder


def test_a_finished_trial_has_all_its_figures(finished, tmp_path, any_layout):
    trial = tmp_path / "tiny" / "trial_0"
    shutil.copytree(trial_folder(finished[0]), trial)
    for repeat in (1, 2):  # As --mining_repeats=2 leaves them, with the same choice.
        path = trial / "mining" / f"repeat_{repeat}" / "prototypes.npz"
        path.parent.mkdir()
        shutil.copy(trial / "mining" / "prototypes.npz", path)
    figures, reasons = draw(trial)
    assert not reasons
    assert set(figures) == {*CURVES, *OF_MINING, "embeddings"}
    for figure in figures.values():
        with Image.open(figure.png) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
        assert figure.svg.read_text().startswith("<?xml")
        assert "digits, protocol neal, trial 0" in figure.caption
    assert figures["scores"].title.endswith("unknown images (PMAL)")
    stars = "unknown ones grey, prototypes as stars."
    assert figures["embeddings"].caption.endswith(stars)
    # The repetitions chose the same images.
    caption = figures["repeated_mining"].caption
    assert "0.000 and 0.000" in caption
    assert "Same images: 3 and 3 of 3." in caption
    # The legend has the numbers of the tables.
    auroc = read_json(trial / "result.json")["models"]["pmal"]["dr"]["auroc"]
    assert f"PMAL {100 * auroc:.1f}" in texts(figures["roc"].svg)


def test_what_cannot_be_drawn_is_told_and_stops_nothing(trial):
    write_scores(trial, {"pmal": model(), "softmax": model()}, [0, 0, 1, -1])
    path = trial / "scores_softmax.npz"
    path.write_bytes(path.read_bytes()[:100])
    figures, reasons = draw(trial)
    assert set(figures) == {"scores", "overview", "robustness_accuracy"}
    assert "sheets.npz is missing" in reasons["robustness_of_class"]
    assert "Run with --mining_repeats=2." in reasons["repeated_mining"]
    for name in ("roc", "oscr", "embeddings"):
        assert "scores_softmax.npz: File is not a zip file" in reasons[name]


def test_markers_that_were_tidied_away_cost_no_figure(trial):
    (trial / "evaluate" / "done.json").unlink()
    figures, _ = draw(trial)
    assert set(figures) == {*CURVES, "embeddings", "robustness_accuracy"}
    for figure in figures.values():
        assert "mine: digits, protocol neal, trial 3" in figure.caption
    # Wilson's upper end of 20 of 20 is 1 less a rounding error: no length of a bar.
    assert "on all (100.0 %)" in figures["robustness_accuracy"].caption


def test_without_scores_the_reason_names_the_file(trial):
    (trial / "scores_softmax.npz").unlink()
    figures, _ = draw(trial)
    legends = " ".join(texts(figures["roc"].svg))
    assert "PMAL" in legends
    assert "softmax" not in legends
    (trial / "scores.npz").unlink()
    _, reasons = draw(trial)
    for name in CURVES:
        assert reasons[name].endswith("scores.npz is missing")


def test_a_mistake_nobody_thought_of_stops_nothing(trial):
    arrays = style.read_arrays(trial / "scores.npz")
    save_arrays(trial / "scores.npz", arrays | {"predicted": arrays["predicted"][:7]})
    save_arrays(trial / "mining" / "robustness.npz", {"robustness": np.zeros(40)})
    figures, reasons = draw(trial)
    assert reasons["oscr"].startswith("ValueError: ")
    assert reasons["robustness_accuracy"].startswith("the run's files lack 'predicted")
    assert set(figures) == {"roc", "scores", "overview", "embeddings"}


def scores_of(is_unknown, score, correct):
    return {
        "is_unknown": is_unknown,
        "dr": score,
        "class_index": np.where(is_unknown, -1, 0),
        "predicted": np.where(correct, 0, 1),
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
    for curve, area in ((roc_curve, "auroc"), (oscr_curve, "oscr")):
        x, y = curve(scores, "dr")
        assert np.trapezoid(y, x) == pytest.approx(metrics[area], abs=1e-9)


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


ARPL = {
    **{"method": "arpl", "baseline": "softmax", "compare": ["softmax"]},
    "models": {
        "arpl": {**model(dr=None, pr=None), "energy": {"auroc": 0.5, "oscr": 0.4}},
        "softmax": model(dr=None),
    },
}


def test_another_method_is_drawn_by_its_own_scores(tmp_path, any_layout):
    trial = make_trial(tmp_path / "mine", 0, **ARPL, known=["cat", "dog"])
    shutil.rmtree(trial / "mining")
    write_scores(trial, ARPL["models"])
    figures, reasons = draw(trial)
    assert set(figures) == {*CURVES, "embeddings"}
    titles = texts(figures["roc"].svg)
    assert [n for n in titles if n in ("DR", "PR", "MLS", "Energy")] == [
        *("MLS", "Energy", "PR")
    ]
    # MLS is of both, Energy of ARPL alone, and PR of softmax.
    legends = [re.sub(r" \d+\.\d$", "", text) for text in titles]
    assert legends.count("ARPL") == legends.count("softmax (M^1)") == 2
    assert figures["scores"].title == "Scores of known and unknown images (ARPL)"
    assert figures["embeddings"].caption.endswith("unknown ones grey.")
    assert set(reasons) == OF_MINING
    for reason in reasons.values():
        assert "of ARPL, without any: the method does without" in reason


def test_an_overview_is_of_the_method_s_own_score(tmp_path):
    trial = make_trial(tmp_path / "a", 0, **ARPL, known=["cat", "dog"])
    write_scores(trial, ARPL["models"])
    (axes,) = draw_overview(trial).figure.axes
    assert axes.get_xlabel() == "MLS: - the largest logit"
    assert axes.get_title() == "Test images, AUROC 75.0 %"


def test_a_method_alone_or_without_embeddings_has_no_such_figure(trial):
    write_scores(trial, {"pmal": model(), "softmax": model()}, embeds=False)
    with pytest.raises(PmalError, match=r"softmax \(M\^1\), of which .*keeps none"):
        draw_embeddings(trial)
    edit(trial / "result.json", models={"pmal": model()})
    with pytest.raises(PmalError, match=r"two methods\. Received: PMAL alone in"):
        draw_embeddings(trial)


def test_runs_of_one_and_ten_prototypes_stand_beside_each_other(tmp_path, any_layout):
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
    (figure,), skipped = draw_figures(Material(trials, []), tmp_path / "out")
    assert (figure.name, skipped) == ("base_prototype_number", {})
    shown = texts(figure.svg)
    assert shown.index("T = 1") < shown.index("T = 10")
    # Neither versions nor fingerprints of images are settings.
    marker = trials["one"][0] / "evaluate" / "done.json"
    inputs = read_json(marker)["inputs"]
    other = {"version of keras": "3.14", "test": "others", "training": "some"}
    edit(marker, inputs={**inputs, **other})
    pair = [*trials["one"], *trials["base"]]
    assert pairs_by_number(trials) == {"base_prototype_number": pair}
    edit(marker, inputs=None)
    assert not pairs_by_number(trials)
    marker.unlink()
    assert not pairs_by_number(trials)


@pytest.mark.parametrize(("number", "seed"), [(0, 1), (1, 0)])
def test_runs_of_other_seeds_or_trials_do_not(tmp_path, number, seed):
    base = make_trial(tmp_path / "base", 0)
    settings = {"prototypes_per_class": 1, "seed": seed}
    one = make_trial(tmp_path / "one", number, **settings)
    assert not pairs_by_number({"base": [base], "one": [one]})


def test_half_of_a_panel_is_known_however_many_images_are_unknown():
    label = np.array([0] * 5 + [1] * 50 + [-1] * 500 + [2] * 50)
    rows = chosen_images(label, 2, 40, with_unknown=True)
    values, counts = np.unique(label[rows], return_counts=True)
    # Of class 0 there are no more; class 2 is none of the two.
    assert (values.tolist(), counts.tolist()) == ([-1, 0, 1], [20, 5, 10])
    assert (np.diff(rows) > 0).all()
    known = label[chosen_images(label, 2, 40, with_unknown=False)]
    assert np.bincount(known).tolist() == [5, 20]


def test_rows_of_table_5_are_drawn(tmp_path):
    for name, auroc, settings in (("base", 0.7, {}), ("low", 0.6, {"epsilon": 0.1})):
        models = {"pmal": model(dr=auroc)}
        make_trial(tmp_path / "runs" / name, 0, models=models, **settings)
    tables = ablation_tables(collect_runs(tmp_path / "runs"))
    (figure,), skipped = draw_figures(Material({}, [], tables), tmp_path / "out")
    assert not skipped
    assert figure.name == "table_5_epsilon_0"
    assert figure.caption == "AUROC DR on cifar10. n = 1 trial a point."


def test_costs_are_drawn_where_there_are_benchmarks(tmp_path):
    sides = {"ours": 1.0, "reference": 2.0}
    entry = {"name": "speed", "value": 2.0, "unit": "x", **sides, "file": "training"}
    (figure,), skipped = draw_figures(Material({}, [], benchmarks=[entry]), tmp_path)
    assert (figure.name, skipped) == ("costs", {})


def test_a_new_figure_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "my_figure.py").write_text(
        "from matplotlib.figure import Figure\n"
        "from pmal_tf.results.figures.figure import OfTrial, Picture\n"
        "def draw(trial):\n"
        "    return Picture(Figure(), str(trial), '')\n"
        "FIGURES = (OfTrial('mine', draw),)\n"
    )
    monkeypatch.setattr(figures_package, "__path__", [str(tmp_path)])
    material = Material({"a": [tmp_path], "b": [tmp_path]}, ["b"])
    (figure,), skipped = draw_figures(material, tmp_path)
    assert (figure.name, figure.title, skipped) == ("b_mine", str(tmp_path), {})


def test_curves_need_unknown_images(trial):
    write_scores(trial, {"pmal": model(), "softmax": model()}, label=[0, 1] * 5)
    with pytest.raises(PmalError, match=r"need known and unknown test images.* 0 unkn"):
        draw_roc(trial)


def test_the_same_figure_is_the_same_file(trial, tmp_path):
    files = [style.save(draw_roc(trial), tmp_path / name, "same") for name in "ab"]
    assert files[0].svg.read_bytes() == files[1].svg.read_bytes()


def test_too_few_points_cannot_be_laid_out(rng):
    with pytest.raises(PmalError, match="too few points for t-SNE, which needs 10"):
        style.flatten(rng.normal(size=(9, 4)))
    assert style.flatten(rng.normal(size=(10, 4))).shape == (10, 2)


def test_points_are_drawn_by_a_fixed_seed():
    rows = style.some_rows(1000, 50)
    assert len(set(rows)) == 50
    np.testing.assert_array_equal(rows, style.some_rows(1000, 50))
    np.testing.assert_array_equal(style.some_rows(3, 50), [0, 1, 2])
