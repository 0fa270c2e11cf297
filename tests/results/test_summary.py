import math

import numpy as np
import pytest
from made_runs import TITLES, file_of

from pmal_tf.results.collect.summary import (
    in_percent,
    render_summary,
    spread,
    summarise_experiment,
)
from pmal_tf.results.figures.sheets import contact_sheet
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json


def make_result(trial, acc, auroc, models=("pmal", "softmax"), dataset="digits"):
    rule = {"auroc": auroc, "oscr": auroc / 2, "fpr95": 0.25}
    metrics = {"acc": acc, "macro_f1": 0.5, "dr": rule, "pr": rule, "mls": rule}
    return {
        "dataset": dataset,
        "backbone": "oscri",
        "protocol": "neal",
        "trial": trial,
        "seed": 10,
        "epochs": 3,
        "known": [f"class {trial}"],
        "method": models[0],
        "baseline": None,
        "titles": {model: TITLES[model] for model in models},
        "files": {model: file_of(model) for model in models},
        "models": {model: metrics for model in models},
    }


@pytest.fixture
def summarise(tmp_path):
    def run(*results):
        return summarise_experiment(tmp_path / "my_run", results)

    return run


def test_mean_and_deviation_over_two_trials_by_hand(summarise, tmp_path):
    summary = summarise(make_result(0, 0.5, 0.75), make_result(1, 1.0, 0.25))
    pmal = summary["models"]["pmal"]
    # The sample deviation of two numbers is their distance over sqrt(2).
    assert pmal["acc"] == {
        "mean": 0.75,
        "std": pytest.approx(0.5 / math.sqrt(2)),
        "n": 2,
    }
    assert pmal["dr.auroc"]["mean"] == 0.5
    assert pmal["mls.oscr"]["mean"] == 0.25
    assert pmal["pr.fpr95"] == {"mean": 0.25, "std": 0.0, "n": 2}
    assert set(summary["models"]) == {"pmal", "softmax"}
    assert summary["experiment"] == "my_run"
    assert summary["method"] == "pmal"
    assert summary["titles"] == {"pmal": "PMAL", "softmax": "softmax (M^1)"}
    assert (summary["trials"], summary["seed"]) == ([0, 1], 10)
    assert read_json(tmp_path / "my_run" / "summary.json") == summary
    assert (tmp_path / "my_run" / "summary.md").read_text() == render_summary(summary)


def test_one_trial_has_no_deviation(summarise, tmp_path):
    summary = summarise(make_result(3, 0.5, 0.75))
    assert summary["models"]["pmal"]["acc"] == {"mean": 0.5, "std": None, "n": 1}
    table = (tmp_path / "my_run" / "summary.md").read_text().split("\n\n")[1]
    assert "±" not in table
    assert "| 50.0 |" in table


def test_a_table_of_many_scores_has_the_first_ones_oscr(summarise, tmp_path):
    result = make_result(3, 0.5, 0.75)
    rule = result["models"]["pmal"]["dr"]
    for metrics in result["models"].values():
        metrics |= {"norm_dr": rule, "class_mean": rule}
    summarise(result)
    heading, table = (tmp_path / "my_run" / "summary.md").read_text().split("\n\n")
    columns = [cell.strip() for cell in table.splitlines()[0].split("|")[2:-1]]
    scores = ("DR", "PR", "MLS", "norm DR", "class mean")
    expected = [f"AUROC {score}" for score in scores]
    assert columns == ["ACC", *expected, *(f"OSCR {score}" for score in scores[:3])]
    # Whose distance DR of the other model is.
    assert "DR of a model without distances of its own is that to its class" in heading


def test_a_model_that_only_some_trials_have_is_left_out(summarise):
    summary = summarise(
        make_result(0, 0.5, 0.5, models=("pmal", "softmax", "control")),
        make_result(1, 0.5, 0.5, models=("pmal", "softmax")),
    )
    assert set(summary["models"]) == {"pmal", "softmax"}


@pytest.mark.parametrize(
    "change",
    [{"protocol": "paper"}, {"epochs": 9}, {"method": "arpl"}],
)
def test_trials_of_different_configurations_are_not_averaged(summarise, change):
    other = {**make_result(1, 0.5, 0.5), **change}
    with pytest.raises(PmalError, match=f"Received: {next(iter(change))} "):
        summarise(make_result(0, 0.5, 0.5), other)


def cells(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert set("".join(rows[1])) == {"-"}
    return rows[0], rows[2:]


def test_the_table_is_in_percent_with_one_row_per_model(summarise):
    models = ("pmal", "softmax", "control")
    text = render_summary(
        summarise(make_result(0, 0.5, 0.75, models), make_result(1, 1.0, 0.25, models))
    )
    assert text.startswith(
        "my_run: digits, protocol `neal`, backbone oscri, trials 0, 1 (n = 2)"
    )
    header, rows = cells(text)
    assert header == ["model", "ACC", "AUROC DR", "AUROC PR", "AUROC MLS"] + [
        f"OSCR {rule}" for rule in ("DR", "PR", "MLS")
    ]
    # 0.5 / sqrt(2) = 0.3536 and 0.25 / sqrt(2) = 0.1768.
    numbers = ["75.0 ± 35.4", *["50.0 ± 35.4"] * 3, *["25.0 ± 17.7"] * 3]
    assert rows == [
        ["PMAL", *numbers],
        ["softmax (M^1)", *numbers],
        ["control (M^1 trained on)", *numbers],
    ]


def test_a_dataset_of_the_paper_gets_the_papers_row(summarise):
    summary = summarise(make_result(0, 0.5, 0.75, dataset="cifar10"))
    assert summary["paper"] == {"acc": 0.963, "auroc": 0.946}
    _, rows = cells(render_summary(summary))
    assert rows[-1] == ["PMAL in the paper", "96.3", "94.6", "", "", "", "", ""]


@pytest.mark.parametrize(
    ("models", "change"),
    [
        (("pmal", "softmax"), {}),  # The paper has no digits.
        (("arpl", "softmax"), {"dataset": "cifar10"}),
        (("pmal", "softmax"), {"dataset": "mnist", "protocol": "custom"}),
    ],
)
def test_what_is_not_in_the_paper_gets_no_such_row(summarise, models, change):
    summary = summarise({**make_result(0, 0.5, 0.75, models), **change})
    assert summary["paper"] is None
    _, rows = cells(render_summary(summary))
    assert [row[0] for row in rows] == [TITLES[model] for model in models]


def test_columns_are_the_scores_that_some_model_has(summarise):
    result = make_result(0, 0.5, 0.75, ("arpl", "softmax"))
    own = result["models"]["arpl"]
    rule = {"auroc": 0.25, "oscr": 0.125}
    result["models"]["softmax"] = {"acc": 0.5, "energy": rule, "mls": rule}
    result["models"]["arpl"] = {n: own[n] for n in ("acc", "mls", "pr")}
    header, rows = cells(render_summary(summarise(result)))
    assert header == ["model", "ACC"] + [
        f"{kind} {score}"
        for kind in ("AUROC", "OSCR")
        for score in ("MLS", "PR", "Energy")
    ]
    assert rows[0][1:5] == ["50.0", "75.0", "75.0", "-"]
    assert rows[1][1:5] == ["50.0", "25.0", "-", "25.0"]
    assert "not measured" not in render_summary(summarise(result))


def test_thresholds_are_told_by_the_method_s_scores(summarise):
    share = {"known_rejected": 0.03, "unknown_rejected": None}
    rules = {"energy": share, "mls": {**share, "unknown_rejected": 0.5}}
    result = make_result(0, 0.5, 0.75, ("arpl", "softmax"))
    result["calibration"] = {"reject_rate": 0.05, "rules": rules}
    summary = summarise(result)
    assert set(summary["rejection"]) == {"reject_rate", "energy", "mls"}
    text = render_summary(summary)
    assert "ARPL's thresholds, set to reject at most 5.0 % of known" in text
    assert "Energy 3.0 of known and - of unknown; MLS 3.0 of known and 50.0 of" in text


def test_numbers_are_rendered_in_percent():
    assert in_percent(spread([])) == "-"
    assert in_percent(spread([0.5, None])) == "-"
    assert in_percent(spread([0.5])) == "50.0"
    # The sample deviation of 0.5 and 0.7 is 0.2 / sqrt(2).
    assert in_percent(spread([0.5, 0.7])) == "60.0 ± 14.1"


def test_a_markdown_table_is_padded_to_one_width():
    assert markdown_table(["ab"], []) == "| ab |\n| -- |\n"
    table = markdown_table(["name", "x"], [["a", "12.5"], ["longer", "±"]])
    assert table == (
        "| name   | x    |\n| ------ | ---- |\n| a      | 12.5 |\n| longer | ±    |\n"
    )


def test_a_contact_sheet_lays_images_out_in_rows_with_white_gaps():
    # Seven images of 3 x 4 pixels, five per row: 2 + 2 (3 + 2) by 2 + 5 (4 + 2).
    images = np.random.default_rng(0).integers(0, 255, (7, 3, 4, 3)).astype(np.uint8)
    sheet = contact_sheet(images)
    assert sheet.shape == (12, 32, 3)
    assert sheet.dtype == np.uint8
    covered = np.zeros(sheet.shape[:2], bool)
    for index, image in enumerate(images):
        top, left = (2, 7)[index // 5], (2, 8, 14, 20, 26)[index % 5]
        area = slice(top, top + 3), slice(left, left + 4)
        np.testing.assert_array_equal(sheet[area], image)
        covered[area] = True
    assert covered.sum() == 7 * 12
    assert (sheet[~covered] == 255).all()


def test_a_contact_sheet_magnifies_pixels_to_blocks():
    image = np.array([[10, 20]], np.uint8)[None, :, :, None].repeat(3, axis=3)
    sheet = contact_sheet(image, scale=2)
    assert sheet.shape == (6, 8, 3)
    assert sheet[2:4, 2:6, 0].tolist() == [[10, 10, 20, 20]] * 2
    # Of few images it is no wider than they are.
    assert contact_sheet(np.zeros((2, 3, 4, 3), np.uint8)).shape == (7, 14, 3)


def test_equal_known_classes_and_estimates_are_named(summarise):
    results = [make_result(trial, 0.5, 0.75) for trial in range(3)]
    results[2]["known"] = results[0]["known"]
    assert "Trials 0, 2 have the same known classes" in render_summary(
        summarise(*results)
    )
    text = render_summary(summarise(*results[:2]))
    assert "same known classes" not in text
    assert "estimate" not in text
    results[0]["unknown_is_estimate"] = True
    text = render_summary(summarise(*results[:2]))
    assert "estimate how images of other classes" in text


def test_without_unknown_images_rejection_is_a_dash_and_said_to_be_missing(summarise):
    result = make_result(0, 0.5, 0.75)
    for rule in ("dr", "pr", "mls"):
        result["models"]["pmal"][rule] = None
    summary = summarise(result)
    assert summary["models"]["pmal"]["acc"]["mean"] == 0.5
    assert summary["models"]["pmal"]["dr.auroc"] is None
    header, rows = cells(render_summary(summary))
    by_title = dict(zip(header, rows[0], strict=True))
    assert (by_title["ACC"], by_title["AUROC DR"]) == ("50.0", "-")
    assert "rejection was not measured" in render_summary(summary)
