"""A damaged or tidied-away file costs the figures made from it, and no others."""

import numpy as np
import pytest
from made_runs import make_trial, model

from pmal_tf.results.figures import embeddings
from pmal_tf.results.figures.draw import draw_figures
from pmal_tf.results.figures.figure import Material
from pmal_tf.results.figures.style import read_arrays, rows_by_group
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays

CURVES = ("roc", "oscr", "scores")


@pytest.fixture
def trial(tmp_path, rng):
    """What curves and robustness need, and no marker of the evaluation."""
    models = {"pmal": model(), "softmax": model()}
    folder = make_trial(tmp_path / "mine", 3, dataset="digits", models=models)
    (folder / "evaluate" / "done.json").unlink()
    label = np.repeat([0, 1, -1], 20)
    score = rng.random(60)
    scores = {"is_unknown": label < 0, "class_index": label, "predicted": label}
    scores |= {"dr": score, "pr": score, "mls": score}
    for name in ("scores", "scores_softmax"):
        save_arrays(folder / f"{name}.npz", scores)
    known = label[label >= 0]
    mined = {"robustness": score[:40], "class_index": known, "predicted_0": known}
    save_arrays(folder / "mining" / "robustness.npz", mined)
    return folder


def draw(trial):
    drawn, skipped = draw_figures(Material({"mine": [trial]}, ["mine"]), trial / "out")
    reasons = {each.name: each.reason for each in skipped}
    return {figure.name: figure for figure in drawn}, reasons


def test_a_trial_whose_markers_were_tidied_away_still_has_figures(trial):
    drawn, _ = draw(trial)
    assert set(drawn) == {f"mine_{name}" for name in (*CURVES, "robustness_accuracy")}
    for figure in drawn.values():
        assert "mine: digits, protocol neal, trial 3" in figure.caption


def test_classifiers_that_are_always_right_have_a_figure(trial):
    # Wilson's upper end of 20 of 20 is 1 less a rounding error: no length of a bar.
    drawn, reasons = draw(trial)
    assert "mine_robustness_accuracy" in drawn, reasons
    assert "on all (100.0 %)" in drawn["mine_robustness_accuracy"].caption


def test_a_damaged_file_costs_only_its_figures(trial):
    path = trial / "scores_softmax.npz"
    path.write_bytes(path.read_bytes()[:100])
    drawn, reasons = draw(trial)
    for name in ("mine_roc", "mine_oscr"):
        assert "scores_softmax.npz: File is not a zip file" in reasons[name]
    assert set(drawn) == {"mine_scores", "mine_robustness_accuracy"}


def test_without_the_method_s_own_scores_the_reason_names_the_file(trial):
    (trial / "scores.npz").unlink()
    _, reasons = draw(trial)
    for name in CURVES:
        assert reasons[f"mine_{name}"].endswith("scores.npz is missing")


def test_without_the_scores_of_another_model_its_curves_are_left_out(trial):
    (trial / "scores_softmax.npz").unlink()
    drawn, _ = draw(trial)
    svg = drawn["mine_roc"].svg.read_text()
    assert "PMAL" in svg
    assert "softmax" not in svg


def test_a_mistake_nobody_thought_of_stops_nothing(trial):
    (trial / "mining" / "sheets.npz").write_bytes(b"")
    arrays = read_arrays(trial / "scores.npz")
    save_arrays(trial / "scores.npz", arrays | {"predicted": arrays["predicted"][:7]})
    drawn, reasons = draw(trial)
    assert reasons["mine_roc"].startswith("ValueError: ")
    assert set(drawn) == {"mine_scores", "mine_robustness_accuracy"}


def test_damaged_arrays_are_told_with_the_way_out(tmp_path):
    path = tmp_path / "some.npz"
    path.write_bytes(b"PK")
    with pytest.raises(PmalError, match=r"Received: .*some\.npz.*make its stage anew"):
        read_arrays(path)


def test_points_are_drawn_group_by_group():
    group = np.array([0] * 5 + [1] * 50 + [-1] * 500)
    rows = rows_by_group(group, {-1: 10, 0: 10, 1: 10})
    values, counts = np.unique(group[rows], return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        -1: 10,
        0: 5,
        1: 10,
    }
    assert (np.diff(rows) > 0).all()


def test_half_of_a_panel_is_known_however_many_images_are_unknown():
    shares = embeddings._shares(560, 10, with_unknown=True)
    assert shares[-1] == 280
    assert {shares[index] for index in range(10)} == {28}
    assert embeddings._shares(600, 4, with_unknown=False) == dict.fromkeys(
        range(4), 150
    )
