"""Tables between markers, their records, and that no table is stale."""

from pathlib import Path

import pytest
from made_runs import make_trial, model
from scipy import stats

from pmal_tf.results.collect.ablation_tables import ablation_tables
from pmal_tf.results.collect.records import interval_of_mean, save_records
from pmal_tf.results.collect.run_folders import collect_runs
from pmal_tf.results.page.published import fill_markers, update_document
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json, write_json

ROOT = Path(__file__).parent.parent.parent
RECORDS = ROOT / "experiments" / "results"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("experiments/*.md")]
DOCUMENTS.append(ROOT / "saved_models" / "README.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.parent.name)
def test_no_table_of_a_document_is_stale(path):
    text = path.read_text(encoding="utf-8")
    assert text == fill_markers(text, RECORDS), (
        f"run python -m pmal_tf.report --update={path.relative_to(ROOT)}"
    )


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda p: p.stem)
def test_every_record_says_of_what_it_is_and_has_a_table(path):
    record = read_json(path)
    for name in ("source", "hardware", "budget", "spread"):
        assert record[name]
    assert record["n"] == len(record["trials"])
    views = {"models": "results", "cells": "ablations", "rejection": "thresholds"}
    for view in (views[name] for name in views if record.get(name)):
        table = fill_markers(f"<!-- {view}: {path.stem} -->\n<!-- end -->", RECORDS)
        # One trial has no spread.
        assert table.count(" ± ") > 3 if record["n"] > 1 else " ± " not in table
        for words in (record["hardware"], record["budget"], f"(n = {record['n']})"):
            assert words in table


@pytest.fixture
def records(tmp_path):
    """Records of runs made by hand: `a` of three trials, `none`, and ablations."""
    for trial, auroc in enumerate((0.7, 0.72, 0.74)):
        models = {"pmal": model(dr=auroc), "control": model(dr=0.6)}
        path = make_trial(tmp_path / "runs" / "a", trial, models=models)
        rule = {"known_rejected": 0.03 + trial / 100, "unknown_rejected": None}
        calibration = {"reject_rate": 0.05, "rules": {"dr": rule}}
        write_json(path / "calibration.json", calibration)
        models = {"pmal": model(dr=0.8 - auroc / 4)}
        make_trial(tmp_path / "runs" / "near", trial, models=models, margin=0.1)
    make_trial(tmp_path / "runs" / "none", 0, models={"pmal": model()}, baseline=None)
    experiments = collect_runs(tmp_path / "runs")
    save_records(experiments, ablation_tables(experiments), tmp_path)
    return tmp_path


def filled(marker, folder):
    """Returns the rows between a marker and its end, then the notes, by cells."""
    text = fill_markers(f"before\n{marker}\nold\n| x |\n<!-- end -->\nafter", folder)
    start, table, notes, end = text.split("\n\n")
    assert (start, end) == (f"before\n{marker}", "<!-- end -->\nafter")
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]], notes


def test_results_stand_with_what_is_gained_and_the_paper(records):
    rows, notes = filled("<!-- results: a none -->", records)
    assert rows[0] == ["", "n", "ACC", "AUROC DR", "AUROC PR", "AUROC MLS"]
    by_name = {row[0]: row[1:] for row in rows[1:]}
    assert by_name["a, PMAL"][:3] == ["3", "80.0 ± 0.0", "72.0 ± 2.0"]
    gained = by_name["a, PMAL - control (M^1 trained on), by trial"]
    assert gained[2] == "+10.0, +12.0, +14.0"
    assert by_name["a, PMAL in the paper"] == ["", "96.3", "94.6", "", ""]
    assert [name for name in by_name if name.startswith("none")] == [
        *("none, PMAL", "none, PMAL in the paper")
    ]
    assert "mean ± sample standard deviation over trials 0, 1, 2 (n = 3)" in notes
    assert "protocol `neal`; backbone oscri at width 0.25, 5 epochs a stage" in notes
    assert "2 cores, Some CPU; no GPU." in notes


def test_columns_may_be_chosen(records):
    rows, _ = filled("<!-- results: none | mls.oscr acc -->", records)
    assert rows[:2] == [
        ["", "n", "OSCR MLS", "ACC"],
        ["none, PMAL", "1", "65.0", "80.0"],
    ]


def test_thresholds_have_the_interval_of_their_mean(records):
    rows, _ = filled("<!-- thresholds: a -->", records)
    assert rows[1] == ["a, DR", "3", "4.0 ± 1.0", "1.5 to 6.5", "-"]
    ends = stats.t.interval(0.95, df=2, loc=0.04, scale=stats.sem([0.03, 0.04, 0.05]))
    entry = {"mean": 0.04, "std": 0.01, "n": 3}
    assert interval_of_mean(entry) == pytest.approx(ends)
    assert interval_of_mean({"mean": 0.04, "std": None, "n": 1}) is None
    assert interval_of_mean(None) is None


def test_ablations_stand_beside_the_paper_and_the_base(records):
    rows, _ = filled("<!-- ablations: ablations_0 -->", records)
    assert rows[1:] == [
        ["base", "83.1", "72.0 ± 2.0", ""],
        ["Table 5, δ = 0.1", "80.9", "62.0 ± 0.5", "-10.0 (-12.5 to -7.5)"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- results: a -->\n", r"must be followed by a line.*results: a -->"),
        ("<!-- end -->\n", "must be followed by"),
        ("<!-- results: a -->\n<!-- results: a -->\n<!-- end -->", "followed by"),
        ("<!-- results: b c -->\n<!-- end -->", r"which has a, abl.*Received: b, c"),
        ("<!-- results: a | dr.f1 -->\n<!-- end -->", "among acc.*Received: dr.f1"),
        ("<!-- ablations: a -->\n<!-- end -->", "lack something.*Received: a: "),
    ],
)
def test_markers_that_cannot_be_filled_are_refused(records, text, message):
    path = records / "doc.md"
    path.write_text(text)
    with pytest.raises(PmalError, match=rf"doc\.md: (?s:.*){message}"):
        update_document(path, records)
    assert path.read_text() == text
