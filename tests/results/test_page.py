import base64
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from made_runs import make_trial, model

from pmal_tf import report as entry
from pmal_tf.results.collect.summary import describe_export
from pmal_tf.results.page.page import escape_markdown, fenced, padded, points
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_json

VOID = {"meta", "img", "br", "link"}
PIXELS = b"\x89PNG pixels"


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a test asks for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def draw_one(experiments, tables, folder, benchmarks):
    png, svg = folder / "overview.png", folder / "overview.svg"
    png.write_bytes(PIXELS)
    svg.write_text("<svg/>")
    texts = {"title": 'An "overview"', "caption": "Of a < b."}
    drawn = SimpleNamespace(png=png, svg=svg, **texts)
    return [drawn], {"speed": "no benchmarks given"}


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Writes a report of `tmp_path/runs` and returns (HTML, Markdown)."""

    def write(draw=draw_one, benchmarks=()):
        monkeypatch.setattr(entry, "draw_all", draw)
        page = entry.make_report(tmp_path / "runs", tmp_path / "report", benchmarks)
        markdown = page.with_suffix(".md")
        return page.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")

    return write


def with_control(pmal, control):
    return {
        "pmal": model(dr=pmal),
        "softmax": model(dr=0.5),
        "control": model(dr=control),
    }


def row_of(markdown, start):
    return next(line for line in markdown.splitlines() if line.startswith(start))


def test_numbers_stand_beside_the_papers_and_the_difference(tmp_path, report):
    for trial, auroc in enumerate((0.7, 0.72, 0.74)):
        models = with_control(auroc, 0.6)
        make_trial(tmp_path / "runs" / "a", trial, models=models, epochs=7)
    html, markdown = report()
    for text in (html, markdown):
        assert "72.0 ± 2.0" in text
        # The paper has 94.6 on CIFAR-10 with OSCRI, and ACC 96.3 where ours is 80.0.
        assert "-22.6" in text
        assert "-16.3" in text
        assert "+12.0" in text
        assert "+10.0 to +14.0" in text
        assert "+10.0, +12.0, +14.0" in text
        assert "protocol neal, width 0.25, 7 epochs for 600" in text
        assert "python -m pmal_tf.run --flagfile=" in text
        assert "runs/a/trial_2/flags.txt" in text
        assert "tensorflow 2.21.0" in text
        assert "git commit abcdef" in text
        assert "60.0" in text  # Seconds of the optimisation.
    assert "<pre>--experiment=a\n</pre>" in html


@pytest.mark.parametrize(
    ("aurocs", "in_table", "in_section"),
    [
        ((0.7, 0.72, 0.74), "ahead", "ahead"),
        ((0.7, 0.72, 0.5), "too close", "too close: interval includes 0"),
        ((0.9, 0.9), "too few pairs", "too few pairs to say (n = 2)"),
    ],
)
def test_ahead_is_said_only_where_the_interval_says_so(
    tmp_path, report, aurocs, in_table, in_section
):
    for trial, auroc in enumerate(aurocs):
        make_trial(tmp_path / "runs" / "a", trial, models=with_control(auroc, 0.6))
    _, markdown = report()
    row_of_method = row_of(markdown, "| a, PMAL ")
    assert re.findall("; ([a-z ]+[a-z])", row_of_method)[1] == in_table
    assert f"| {in_section} " in row_of(markdown, "| AUROC DR ")


def test_what_is_missing_is_said(tmp_path, report):
    models = {"pmal": model(), "softmax": model()}
    make_trial(tmp_path / "runs" / "a", 0, models=models)
    unmeasured = {"pmal": {**model(), "dr": None, "pr": None, "mls": None}}
    make_trial(tmp_path / "runs" / "b", 0, models=unmeasured)
    half = make_trial(tmp_path / "runs" / "a", 1)
    (half / "result.json").unlink()
    html, markdown = report()
    for text in (html, markdown):
        assert "PMAL against control: missing" in text
        assert "--compare=softmax,control" in text
        assert "it has no result.json" in text
        assert "no benchmarks given" in text
        assert "Not finished, so not in these numbers: trial_1" in text
        assert "rejection was not measured" in text
    assert row_of(markdown, "| a, control ").count("missing") == 4
    # A rule that was not measured is no zero.
    assert row_of(markdown, "| b, PMAL ").count("missing") == 3


def test_another_method_is_told_by_its_own_name_and_scores(tmp_path, report):
    arpl = {"method": "arpl", "baseline": "softmax", "compare": ["softmax"]}
    for trial, auroc in enumerate((0.7, 0.72, 0.74)):
        models = {
            "arpl": model(dr=None, mls=auroc),
            "softmax": model(dr=None, pr=None, mls=0.6),
        }
        make_trial(tmp_path / "runs" / "a", trial, models=models, **arpl)
    make_trial(tmp_path / "runs" / "b", 0)
    _, markdown = report()
    # The columns are those of both experiments, in order of appearance.
    header = row_of(markdown, "| experiment and model ")
    assert re.findall("AUROC [A-Z]+", header) == ["AUROC PR", "AUROC MLS", "AUROC DR"]
    cells = [cell.strip() for cell in row_of(markdown, "| a, ARPL ").split("|")[2:-1]]
    assert cells[:2] == ["neal", "3"]
    assert cells[3:] == ["72.0 ± 0.0", "72.0 ± 2.0; ahead", "-"]
    assert "a: ARPL minus softmax (M^1), in percent points" in markdown
    assert "ARPL is" in markdown
    assert "ARPL in the paper" not in markdown
    assert "b, PMAL in the paper" in markdown
    assert "- the largest logit" in markdown
    assert "rejection was not measured" not in markdown


def test_a_method_without_a_baseline_is_compared_with_none(tmp_path, report):
    path = make_trial(
        *(tmp_path / "runs" / "a", 0), models={"pmal": model()}, baseline=None
    )
    rule = {"known_rejected": 0.04, "unknown_rejected": None}
    rules = dict.fromkeys(("dr", "pr", "mls"), rule)
    write_json(path / "calibration.json", {"reject_rate": 0.05, "rules": rules})
    entry = {"name": "scipy_speedup", "value": 6.23456, "unit": "times", "ours": None}
    (tmp_path / "speed.json").write_text(json.dumps([entry]))
    html, markdown = report(benchmarks=[tmp_path / "speed.json"])
    assert "against" not in markdown.partition("## Experiments")[2]
    assert "| a, control" not in markdown
    # Thresholds and benchmarks stand where there are any.
    assert "reject at most 5.0 % of known images" in markdown
    assert re.search(r"\| DR +\| 4\.0 +\| missing", markdown)
    assert "| scipy_speedup | 6.235 | times |" in markdown
    assert '<a href="#speed">' in html


@pytest.mark.parametrize("name", ["pr", "msp"])
def test_an_export_is_told_with_its_threshold(tmp_path, name):
    rule = {"threshold": 0.123456, "known_rejected": 0.05, "unknown_rejected": 0.9}
    text = describe_export(tmp_path, name, {"rules": {"pr": rule}})
    assert text == (
        f"Exported {tmp_path}: an image whose PR is above 0.1235 is unknown; that "
        "rejects 5.0 % of known and 90.0 % of unknown test images.\n"
    )
    unmeasured = {**rule, "known_rejected": None, "unknown_rejected": None}
    text = describe_export(tmp_path, name, {"rules": {"pr": unmeasured}})
    assert text.endswith("is unknown.\n")


def test_the_page_needs_nothing_else_and_can_be_read_aloud(tmp_path, report):
    make_trial(tmp_path / "runs" / "a", 0)
    page = Page(report()[0])
    used = {tag for tag, _ in page.tags}
    assert not used & {"script", "link", "iframe", "object"}
    (image,) = page.attributes("img")
    assert image["src"] == "data:image/png;base64," + base64.b64encode(PIXELS).decode()
    assert image["alt"] == 'An "overview"'
    links = [attributes["href"] for attributes in page.attributes("a")]
    assert "figures/overview.svg" in links
    names = {attributes.get("id") for _, attributes in page.tags}
    assert {link[1:] for link in links if link.startswith("#")} <= names
    style = next(text for text in page.text if "color-scheme" in text)
    assert "url(" not in style
    assert "@import" not in style
    count = len(page.attributes("table"))
    assert count > 3
    assert len(page.attributes("caption")) == count
    assert {th["scope"] for th in page.attributes("th")} == {"col", "row"}
    assert page.attributes("html") == [{"lang": "en"}]


def test_names_of_users_are_text_and_nothing_else(tmp_path, report):
    evil = ["<script>alert(1)</script>", 'a|b`c*[d](e)"&amp;']
    make_trial(tmp_path / "runs" / "x&y<b>", 0, known=evil)
    html, markdown = report()
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "b" not in {tag for tag, _ in page.tags}
    assert any(", ".join(evil) in text for text in page.text)
    assert "<script>" not in markdown
    assert "x&amp;y&lt;b>" in markdown


def test_markdown_escapes_what_would_be_markup():
    assert escape_markdown("a|b <i>\n*c*") == "a\\|b &lt;i> \\*c\\*"
    assert fenced("a`b") == "``a`b``"


def test_rows_of_a_table_have_as_many_cells_as_columns():
    with pytest.raises(ValueError, match="longer"):
        padded(["a"], "| 1 | 2 |\n")


def test_the_paper_s_orders_are_counted_and_what_is_missing_is_named(tmp_path, report):
    for trial in range(3):
        for name, auroc, settings in (
            ("base", 0.7 + trial / 50, {}),
            ("nearest", 0.6 + trial * 0.03, {"set_distance": "nearest"}),
        ):
            models = {"pmal": model(dr=auroc)}
            make_trial(tmp_path / "runs" / name, trial, models=models, **settings)
    make_trial(tmp_path / "runs" / "twice", 0)
    html, markdown = report()
    for text in (html, markdown):
        assert "72.0 ± 2.0 (n = 3)" in text
        assert "63.0 ± 3.0 (n = 3)" in text
        assert "-9.0 (-10.0 to -8.0), behind" in text
        assert "1 hold, 14 are missing" in text
        assert "By the means alone, 1 of 1 have the paper's order" in text
        assert "paper: TinyImageNet, WRN-40-4" in text
        assert "Runs of dataset cifar10, protocol neal, backbone oscri, width" in text
        assert text.count("Missing: no two of its cells") == 6
    assert "ε = 0.1: `--epsilon=0.1`" in markdown
    assert "another run of the same trial and settings is: `" in markdown
    assert "runs/twice/trial_0`." in markdown
    # What is a cell of a table only is folded, and not among the results.
    assert "<summary>nearest (a cell of the tables above)</summary>" in html
    assert "| base, PMAL " in markdown
    assert "| nearest, PMAL " not in markdown


def test_a_report_replaces_an_older_one_when_it_is_complete(tmp_path, report):
    make_trial(tmp_path / "runs" / "a", 0)
    before = report()
    (tmp_path / "report" / "figures" / "old.png").write_bytes(b"")
    assert report() == before
    inside = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir())
    assert inside == ["overview.png", "overview.svg"]

    def fail(experiments, tables, folder, benchmarks):
        (folder / "half.png").write_bytes(b"")
        raise PmalError("a figure failed")

    with pytest.raises(PmalError, match="a figure failed"):
        report(draw=fail)
    assert (tmp_path / "report" / "report.html").read_text() == before[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "runs"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path, report):
    make_trial(tmp_path / "runs" / "a", 0)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("mine")
    with pytest.raises(PmalError, match=r"older report.*which holds thesis\.tex"):
        report()
    assert (tmp_path / "report" / "thesis.tex").read_text() == "mine"


def test_points_have_a_sign_and_no_negative_zero():
    written = [points(difference) for difference in (0.0123, -0.0123, -0.0001, 0.0)]
    assert written == ["+1.2", "-1.2", "+0.0", "+0.0"]
