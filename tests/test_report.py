import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_runs import make_old, make_trial
from PIL import Image
from tiny_run import tiny

from pmal_tf import report
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.experiment import run_experiment


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "pmal_tf.report", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def drawn(monkeypatch):
    """Draws one file in place of all figures, and keeps what it was asked for."""
    asked = []

    def draw_all(experiments, tables, folder, benchmarks):
        asked.append((experiments, tables, benchmarks))
        (folder / "one.png").write_bytes(b"")
        return [], []

    monkeypatch.setattr(report, "draw_all", draw_all)
    return asked


def test_mistakes_are_told_in_a_sentence_and_leave_with_status_1(tmp_path):
    make_trial(tmp_path / "runs" / "a", 0)
    make_trial(tmp_path / "runs" / "a", 1, epochs=9)
    old = tmp_path / "report" / "report.md"
    old.parent.mkdir()
    old.write_text("older")
    answer = run(cwd=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith("Error: Only trials of the same settings")
    assert "Traceback" not in answer.stderr
    assert old.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "runs"]


def test_a_word_that_is_no_part_of_the_report_is_a_usage_error(tmp_path):
    answer = run("pictures", cwd=tmp_path)
    assert answer.returncode == 1
    assert "Unexpected arguments: ['pictures']" in answer.stdout + answer.stderr


def test_the_report_does_not_wait_for_tensorflow_or_matplotlib():
    code = (
        "import sys, pmal_tf.report; "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_report_is_made_of_the_runs_and_benchmarks(tmp_path, drawn):
    make_trial(tmp_path / "runs" / "a", 0)
    make_trial(tmp_path / "runs" / "point", 0, epsilon=0.1)
    speed = tmp_path / "mining.json"
    speed.write_text(json.dumps([{"name": "gain", "value": 5, "unit": "times"}]))
    page = report.make_report(tmp_path / "runs", tmp_path / "new" / "out", [speed])
    assert page == tmp_path / "new" / "out" / "report.html"
    assert "gain" in page.read_text(encoding="utf-8")
    assert (page.parent / "figures" / "one.png").exists()
    ((experiments, tables, benchmarks),) = drawn
    assert [experiment.name for experiment in experiments] == ["a", "point"]
    assert [table.paper.name for table in tables] == ["table_5_epsilon"]
    assert benchmarks == [speed]


def test_figures_alone_leave_the_texts_as_they_are(tmp_path, drawn):
    make_trial(tmp_path / "runs" / "a", 0)
    out = tmp_path / "report"
    report.make_report(tmp_path / "runs", out)
    before = (out / "report.html").stat().st_mtime_ns
    (out / "figures" / "old.png").write_bytes(b"")
    assert report.make_figures(tmp_path / "runs", out) == out / "figures"
    assert [path.name for path in (out / "figures").iterdir()] == ["one.png"]
    assert (out / "report.html").stat().st_mtime_ns == before
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        ("{", "Expecting"),
        ("{}", "not a list"),
        ('[{"name": "a"}]', "an entry lacks name, value, unit"),
        ("[3]", "an entry lacks"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(tmp_path, drawn, content, reason):
    make_trial(tmp_path / "runs" / "a", 0)
    path = tmp_path / "speed.json"
    if content is not None:
        path.write_text(content)
    message = rf"`benchmarks` must be.*speed\.json: {reason}"
    with pytest.raises(PmalError, match=message):
        report.make_report(tmp_path / "runs", tmp_path / "out", [path])
    assert drawn == []
    assert not (tmp_path / "out").exists()


def test_a_run_on_one_s_own_images_stands_beside_an_old_one(finished, tmp_path):
    images, runs = tmp_path / "images" / "train", tmp_path / "runs"
    for name, level in (("cat", 40), ("dog", 120), ("emu", 200)):
        (images / name).mkdir(parents=True)
        noise = np.random.default_rng(level).normal(level, 15, (30, 10, 10, 3))
        for number, pixels in enumerate(np.clip(noise, 0, 255).astype(np.uint8)):
            Image.fromarray(pixels).save(images / name / f"{number}.png")
    shutil.copytree(finished[0] / "runs" / "tiny", runs / "old")
    make_old(runs / "old" / "trial_0")
    run_experiment(
        tiny(
            tmp_path,
            experiment="mine",
            **{"dataset": "folder", "protocol": "paper", "image_size": 8},
            **{"data_dir": str(images.parent), "cache_dir": str(tmp_path / "cache")},
            **{"held_out_classes": ("emu",), "compare": ("softmax",), "epochs": 1},
            tensorboard=False,
        )
    )
    page = report.make_report(runs, tmp_path / "report")
    markdown = page.with_name("report.md").read_text(encoding="utf-8")
    for start in ("| old, PMAL ", "| mine, PMAL "):
        assert start in markdown
    assert "folder, protocol `folder` (2 known and 1 unknown classes)" in markdown
    assert "PMAL against control: missing" in markdown
    assert "--compare=softmax,control" in markdown
    figures = {path.stem for path in (page.parent / "figures").glob("*.png")}
    assert {f"{name}_roc" for name in ("old", "mine")} <= figures
