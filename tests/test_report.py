import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from absl import app
from made_runs import make_trial

from pmal_tf import report
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json


def main(folder, *words, **changes):
    """Calls the command line with flags that lie in a folder."""
    values = {"runs": "runs", "out": "report", "results": "results"}
    given = {name: str(folder / value) for name, value in values.items()}
    given = {**given, "benchmarks": [], "update": [], **changes}
    report.main(["report", *words], SimpleNamespace(**given))


@pytest.fixture
def drawn(monkeypatch):
    """Draws one file in place of all figures, and keeps what it was asked for."""
    asked = []

    def draw_all(experiments, tables, folder, speed):
        asked.append((experiments, tables, speed))
        (folder / "one.png").write_bytes(b"")
        return [], {}

    monkeypatch.setattr(report, "draw_all", draw_all)
    return asked


def test_mistakes_are_sentences_with_status_1_and_change_nothing(tmp_path):
    make_trial(tmp_path / "runs" / "a", 0)
    make_trial(tmp_path / "runs" / "a", 1, epochs=9)
    old = tmp_path / "report" / "report.md"
    old.parent.mkdir()
    old.write_text("older")
    answer = subprocess.run(
        [sys.executable, "-m", "pmal_tf.report"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("Error: Only trials of the same settings")
    assert "Traceback" not in answer.stderr
    assert old.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "runs"]


def test_other_mistakes_of_the_command_line(tmp_path):
    with pytest.raises(app.UsageError, match=r"Unexpected arguments: \['pictures'\]"):
        main(tmp_path, "pictures")
    missing = str(tmp_path / "none.md")
    with pytest.raises(SystemExit, match=r"Error: .*none\.md: No such file"):
        main(tmp_path, update=[missing])


def test_the_report_is_made_of_the_runs_and_benchmarks(tmp_path, drawn):
    make_trial(tmp_path / "runs" / "a", 0)
    make_trial(tmp_path / "runs" / "point", 0, epsilon=0.1)
    speed = tmp_path / "mining.json"
    entry = {"name": "gain", "value": 5, "unit": "times"}
    speed.write_text(json.dumps([entry]))
    page = report.make_report(tmp_path / "runs", tmp_path / "new" / "out", [speed])
    assert page == tmp_path / "new" / "out" / "report.html"
    assert "gain" in page.read_text(encoding="utf-8")
    assert (page.parent / "figures" / "one.png").exists()
    ((experiments, tables, entries),) = drawn
    assert [experiment.name for experiment in experiments] == ["a", "point"]
    assert [table.paper.name for table in tables] == ["table_5_epsilon"]
    assert entries == [{**entry, "file": "mining"}]


def test_figures_alone_leave_the_texts_as_they_are(tmp_path, drawn):
    make_trial(tmp_path / "runs" / "a", 0)
    out = tmp_path / "report"
    main(tmp_path)
    before = (out / "report.html").stat().st_mtime_ns
    (out / "figures" / "old.png").write_bytes(b"")
    main(tmp_path, "figures")
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


def test_figures_are_of_all_finished_runs_and_pictures_not_of_cells(
    tmp_path, monkeypatch
):
    asked = []
    draw_figures = "pmal_tf.report.draw_figures"
    monkeypatch.setattr(
        draw_figures, lambda material, out: (asked.append(material) or [], {})
    )
    make_trial(tmp_path / "runs" / "a", 0)
    make_trial(tmp_path / "runs" / "point", 0, epsilon=0.1)
    (make_trial(tmp_path / "runs" / "half", 0) / "result.json").unlink()
    report.make_report(tmp_path / "runs", tmp_path / "report")
    (material,) = asked
    folders = {name: [tmp_path / "runs" / name / "trial_0"] for name in ("a", "point")}
    assert (material.experiments, material.detailed) == (folders, ["a"])
    assert len(material.tables) == 1


def test_records_are_saved_and_documents_updated_from_them(tmp_path):
    for name, settings in (("a", {}), ("b/c", {}), ("point", {"epsilon": 0.1})):
        make_trial(tmp_path / "runs" / name, 0, **settings)
    document = tmp_path / "README.md"
    document.write_text("<!-- results: a b-c -->\n<!-- end -->\n")
    main(tmp_path, "save", update=[str(document)])
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["a.json", "ablations_0.json", "b-c.json"]
    written = document.read_text()
    assert "| b-c, PMAL | 1 | 80.0 |" in written
    assert not (tmp_path / "report").exists()
    # Without `save`, the records are as they are.
    record = read_json(tmp_path / "results" / "a.json")
    record["models"]["pmal"]["acc"]["mean"] = 0.123
    (tmp_path / "results" / "a.json").write_text(json.dumps(record))
    main(tmp_path, update=[str(document)])
    assert document.read_text() == written.replace(
        "| a, PMAL | 1 | 80.0 |", "| a, PMAL | 1 | 12.3 |"
    )
