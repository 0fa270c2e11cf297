import pytest
from made_runs import edit, make_trial, model

from pmal_tf.results.collect.ablation_tables import ablation_tables, orderings
from pmal_tf.results.collect.paper import BASE, PAPER_TABLES
from pmal_tf.results.collect.run_folders import collect_runs
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json

BASE_LABEL, NEAREST = "(f) all three", "(e) quality, diversity"


@pytest.fixture
def make(tmp_path):
    """Writes trials 0, 1, ... of an experiment, with the given AUROC by rule DR."""

    def write(experiment, *aurocs, **settings):
        for trial, auroc in enumerate(aurocs):
            models = {"pmal": model(acc=auroc + 0.1, dr=auroc)}
            make_trial(tmp_path / experiment, trial, models=models, **settings)

    return write


@pytest.fixture
def tables(tmp_path):
    return lambda: ablation_tables(collect_runs(tmp_path))


def row_of(table, label):
    return next(row for row in table.rows if row.cell.label == label)


def test_papers_numbers_are_those_printed():
    printed = {t.name: [c.paper["auroc"] for c in t.cells] for t in PAPER_TABLES}
    assert printed["table_3"] == [80.3, 78.1, 81.6, 80.2, 81.9, 83.1]
    assert printed["table_4"] == [79.3, 80.5, 78.8, 79.1, 79.6, 83.1]
    assert printed["table_5_prototypes_per_class"] == [79.9, 81.1, 83.1, 82.6, 83.1]
    assert printed["table_5_epsilon"] == [73.6, 78.1, 82.6, 83.1, 81.2]
    assert printed["table_5_num_models"] == [83.1, 83.3, 83.2, 83.0, 83.3]
    assert printed["table_5_margin"] == [80.9, 82.8, 83.1, 82.1, 80.5]
    assert printed["table_5_prototype_weight"] == [82.6, 82.8, 82.9]
    acc = [cell.paper["acc"] for cell in PAPER_TABLES[1].cells]
    assert acc == [81.9, 82.3, 81.6, 81.5, 81.8, 84.7]


def test_settings_of_the_paper_are_those_of_the_package():
    from pmal_tf.workflow.config import Config

    assert {name: getattr(Config(), name) for name in BASE} == BASE
    for table in PAPER_TABLES:
        settings = [{**BASE, **cell.overrides} for cell in table.cells]
        assert len(set(map(str, settings))) == len(settings)
        assert [table.cells[n].label for n, s in enumerate(settings) if s == BASE] == [
            table.base
        ]
        for cell in table.cells:
            Config(**{n: type(BASE[n])(v) for n, v in cell.overrides.items()})


def test_cells_are_found_by_settings_and_not_by_name(make, tables):
    make("some_name", 0.7, 0.72, 0.74, 0.1)  # Only common trials are compared.
    make("other", 0.6, 0.63, 0.66, set_distance="nearest")
    (table,) = tables()
    assert table.paper.name == "table_3"
    assert sum(bool(row.runs) for row in table.rows) == 2
    assert row_of(table, BASE_LABEL).values("dr.auroc") == [0.7, 0.72, 0.74, 0.1]
    assert row_of(table, BASE_LABEL).differences == {}
    nearest = row_of(table, NEAREST)
    assert nearest.values("acc") == pytest.approx([0.7, 0.73, 0.76])
    difference = nearest.differences["dr.auroc"]
    # -0.1, -0.09, -0.08 by trial.
    assert difference.mean_difference == pytest.approx(-0.09)
    assert (difference.low, difference.high) == pytest.approx((-0.1, -0.08))
    assert difference.behind
    assert row_of(table, "(a) quality only").runs == {}


def test_runs_of_another_method_fill_no_table(tmp_path, make, tables):
    make("base", 0.7)
    models = {"arpl": model()}
    for name, epsilon in (("a", 0.1), ("b", 0.3)):
        make_trial(tmp_path / name, 0, models=models, method="arpl", epsilon=epsilon)
    assert tables() == []


@pytest.mark.parametrize(
    "other",
    [{"epochs": 9}, {"dataset": "mnist"}, {"versions": {"tensorflow": "2.20.0"}}],
)
def test_runs_that_differ_elsewhere_share_no_table(make, tables, other):
    make("base", 0.7)
    make("nearest", 0.6, set_distance="nearest", **other)
    assert tables() == []


def test_what_is_judged_beside_and_seeds_do_not_part_runs(make, tables):
    make("base", 0.7, 0.7)
    make("base_seed_1", 0.8, seed=1)
    make("nearest", 0.6, 0.5, set_distance="nearest", compare=[], scores=["dr"])
    make("nearest_seed_1", 0.6, set_distance="nearest", seed=1)
    (table,) = tables()
    assert list(row_of(table, BASE_LABEL).runs) == [(0, 0), (0, 1), (1, 0)]
    difference = row_of(table, NEAREST).differences["dr.auroc"]
    assert len(difference.differences) == 3
    assert difference.mean_difference == pytest.approx((-0.1 - 0.2 - 0.2) / 3)


def test_a_trial_that_was_run_twice_counts_once(make, tables):
    make("base", 0.7)
    make("base_again", 0.9)
    make("nearest", 0.6, set_distance="nearest")
    row = row_of(tables()[0], BASE_LABEL)
    assert row.values("dr.auroc") == [0.7]
    assert [run.folder.parent.name for run in row.repeated] == ["base_again"]


def test_orders_of_the_paper_are_judged_by_intervals(make, tables):
    make("base", 0.7, 0.72, 0.74)
    make("a", 0.6, 0.63, 0.66, diversity="none", set_distance="nearest")
    make("c", 0.75, 0.77, 0.79, diversity="none")
    make("e", 0.71, 0.72, 0.73, set_distance="nearest")
    (table,) = (table for table in tables() if table.paper.name == "table_3")
    found = {(o.higher[:3], o.lower[:3]): o for o in orderings(table)}
    assert len(found) == 15
    assert found["(f)", "(a)"].verdict == "holds"
    assert found["(c)", "(a)"].verdict == "holds"
    assert found["(f)", "(c)"].verdict == "does not hold"
    assert found["(f)", "(e)"].verdict == "too close: interval includes 0"
    assert found["(f)", "(b)"].verdict == "missing"
    assert found["(f)", "(a)"].paper_points == pytest.approx(2.8)
    listed = {pair for pair, ordering in found.items() if ordering.is_listed}
    above_base = {("(f)", f"({letter})") for letter in "abcde"}
    assert listed == above_base | {
        *(("(c)", "(a)"), ("(d)", "(b)"), ("(e)", "(a)"), ("(e)", "(b)"))
    }


def test_equal_numbers_of_the_paper_are_no_order(make, tables):
    make("base", 0.7)
    make("thirty", 0.8, prototypes_per_class=30)
    make("twenty", 0.8, prototypes_per_class=20)
    (table,) = tables()
    pairs = {frozenset((o.higher, o.lower)) for o in orderings(table)}
    assert frozenset(("T = 10", "T = 30")) not in pairs
    assert len(pairs) == 9
    verdicts = {o.verdict for o in orderings(table) if o.comparison}
    assert verdicts == {"too few pairs to say (n = 1)"}


def test_a_metric_that_is_no_number_is_refused(tmp_path, make, tables):
    make("base", 0.7)
    make_trial(
        *(tmp_path / "nearest", 0),
        models={"pmal": {**model(), "acc": "high"}},
        set_distance="nearest",
    )
    with pytest.raises(PmalError, match=r"must be a number. Received: 'high' as acc"):
        tables()


def test_settings_of_a_method_judged_beside_it_part_no_runs(make, tables, tmp_path):
    make("base", 0.7)
    make("nearest", 0.6, set_distance="nearest")
    for trial in tmp_path.glob("*/trial_0"):
        marker = read_json(trial / "evaluate" / "done.json")
        weight = {"arpl.radius_weight": 0.1 if trial.parent.name == "base" else 0.2}
        edit(trial / "config.json", radius_weight=0.1)
        edit(trial / "evaluate" / "done.json", inputs={**marker["inputs"], **weight})
    assert [table.paper.name for table in tables()] == ["table_3"]
