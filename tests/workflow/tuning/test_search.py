"""A sweep on digits: killed and gone on with, and its results."""

import json

import pytest
from made_runs import write_marker
from PIL import Image
from quick_run import quick_stages
from tiny_run import tiny

from pmal_tf.data.splits import open_set_split
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError
from pmal_tf.runtime.files import read_json, write_json
from pmal_tf.runtime.signals import Interrupted
from pmal_tf.workflow import experiment
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.tuning import search
from pmal_tf.workflow.tuning.results import Point, marginals, measure_costs
from pmal_tf.workflow.tuning.search import run_sweep
from pmal_tf.workflow.tuning.sweep import Parameter, Sweep, parse_space


def tiny_sweep(folder, **changes):
    config = tiny(
        folder,
        experiment="sweep",
        epochs=1,
        compare=("softmax",),
        tensorboard=False,
    )
    defaults = {
        "config": config,
        "space": parse_space(["prototypes_per_class=1,3", "epsilon=0.3,0.7"]),
        "tuner": "grid",
    }
    return Sweep(**{**defaults, **changes})


class Killed:
    """Stands in for a run: leaves at the n-th call, as a signal would."""

    def __init__(self, monkeypatch, at=None):
        self.calls, self.at = [], at
        monkeypatch.setattr(search, "run_experiment", self)

    def __call__(self, config):
        self.calls.append(config.experiment)
        if len(self.calls) == self.at:
            raise Interrupted(15)
        return experiment.run_experiment(config)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch, quick_stages():
        first = Killed(patch, at=3)
        with pytest.raises(Interrupted):
            run_sweep(tiny_sweep(folder))
        second = Killed(patch)
        table = run_sweep(tiny_sweep(folder))
    return tiny_sweep(folder), table, first, second


def test_a_sweep_that_was_killed_goes_on_where_it_stood(swept):
    _, _, first, second = swept
    assert len(first.calls) == 3
    # The point that was cut short, and the last one.
    assert len(second.calls) == 2
    assert second.calls[0] == first.calls[2]
    assert len({*first.calls, *second.calls}) == 4


def test_a_finished_sweep_runs_nothing_and_says_the_same(swept, monkeypatch):
    sweep, table, *_ = swept
    third = Killed(monkeypatch)
    assert run_sweep(sweep) == table
    assert not third.calls


def test_the_table_has_a_row_for_each_setting_as_table_5_has(swept):
    sweep, table, *_ = swept
    assert (sweep.folder / "table.md").read_text() == table
    assert read_json(sweep.folder / "sweep.json") == sweep.identity
    assert "| prototypes_per_class | 1 " in table
    assert "| epsilon | 0.3 " in table
    assert "Test images were not looked at." in table
    for parameter in sweep.space:
        assert (sweep.folder / f"{parameter.name}.png").exists()
        assert (sweep.folder / f"{parameter.name}.svg").exists()


@pytest.mark.slow
def test_the_best_objective_can_be_had_again(tmp_path, parse):
    """As it was trained: the same number to the last digit, from nothing."""
    sweep = tiny_sweep(tmp_path, space=parse_space(["epsilon=0.7"]))
    run_sweep(sweep)
    text = (sweep.folder / "best_objective.flags").read_text()
    config = parse(f"--flagfile={sweep.folder / 'best_objective.flags'}")
    assert config.tuning_held_out
    # Not from what the sweep has made.
    config = config.changed(workdir=str(tmp_path / "other"), store_dir="")
    experiment.run_experiment(config)
    result = json.loads((config.run_folder / "trial_0" / "result.json").read_text())
    objective = result["models"]["pmal"]["dr"]["auroc"]
    assert f"AUROC DR was {objective:.6f}" in text
    assert result["protocol"] == "neal_tuning"


def test_the_best_flags_train_on_all_known_classes(swept, parse):
    sweep, *_ = swept
    best = parse(f"--flagfile={sweep.folder / 'best.flags'}")
    assert not best.tuning_held_out
    assert best.stages == sweep.config.stages
    assert best.workdir == sweep.config.workdir


def test_no_point_has_seen_the_test(swept):
    sweep, *_ = swept
    results = list(sweep.folder.glob("*/trial_0/result.json"))
    assert len(results) == 4
    for path in results:
        result = json.loads(path.read_text())
        source = experiment.open_trial(sweep.config, 0).images.source
        known = set(open_set_split(source, "neal", 0).known)
        assert {*result["known"], *result["unknown"]} == known


def test_points_share_what_they_can(swept):
    sweep, *_ = swept
    assert json.loads((sweep.folder / "costs.json").read_text())["points"] == 4
    # Two classifiers serve four points.
    assert len(list(sweep.folder.glob("*/trial_0/pretrain_*/done.json"))) == 8
    assert len(list(sweep.config.store_folder.glob("pretrain_*-*"))) == 2


def test_seconds_of_what_runs_share_count_once(tmp_path):
    configs = [Config(workdir=str(tmp_path), experiment=name) for name in ("a", "b")]
    for config in configs:
        trial = config.run_folder / "trial_0"
        write_marker(trial, "pretrain_0", seconds=10.0)
        write_marker(trial, "mining", seconds=2.5)
        own = read_json(trial / "mining" / "done.json")
        write_json(trial / "mining" / "done.json", own | {"outputs": config.experiment})
    costs = measure_costs(configs)
    assert costs == {"points": 2, "seconds": 15.0, "seconds_from_nothing": 25.0}


def test_a_point_that_diverges_is_passed_over(tmp_path, runs_of_nothing, monkeypatch):
    run_nothing = search.run_experiment

    def run(config):
        if config.epsilon == 0.7:
            raise TrainingDivergedError("the loss was nan")
        return run_nothing(config)

    monkeypatch.setattr(search, "run_experiment", run)
    space = parse_space(["epsilon=0.3,0.7"])
    table = run_sweep(tiny_sweep(tmp_path, space=space, tuner="axes"))
    assert "could not be trained" in table
    assert "Best: epsilon 0.3." in table


def test_what_is_wrong_with_all_points_ends_the_sweep(tmp_path, monkeypatch):
    calls = []

    def run(config):
        calls.append(config)
        raise PmalError("The dataset must be there. Received: nothing")

    monkeypatch.setattr(search, "run_experiment", run)
    with pytest.raises(PmalError, match="The dataset must be there"):
        run_sweep(tiny_sweep(tmp_path))
    assert len(calls) == 1


def test_a_sweep_whose_points_all_diverge_says_so(tmp_path, monkeypatch):
    def run(config):
        raise TrainingDivergedError("the loss was nan")

    monkeypatch.setattr(search, "run_experiment", run)
    with pytest.raises(PmalError, match="several in a row that could not be trained"):
        run_sweep(tiny_sweep(tmp_path))


def test_rows_of_a_table_average_or_keep_to_the_axis():
    def point(t, epsilon, *aurocs):
        results = [{"trial": i, "auroc": a, "acc": 1.0} for i, a in enumerate(aurocs)]
        values = {"prototypes_per_class": t, "epsilon": epsilon}
        return Point(values, Config(), tuple(results))

    points = [point(10, 0.7, 0.5, 0.7), point(10, 0.3, 0.6, 0.6), point(1, 0.7, 0.1, 1)]
    parameter = Parameter("prototypes_per_class", (1, 10))
    on_axis = marginals(points, parameter, Config())
    assert list(on_axis.items()) == [(1, [0.1, 1]), (10, [0.5, 0.7])]
    everywhere = marginals(points, parameter, None)
    assert everywhere[10] == pytest.approx([0.55, 0.65])


def test_costs_of_runs_that_are_not_there_are_nothing(tmp_path):
    config = Config(workdir=str(tmp_path))
    assert measure_costs([config])["seconds"] == 0.0


@pytest.fixture
def runs_of_nothing(monkeypatch):
    """Points cost nothing: each is said to be run, with a made-up result."""
    calls = []

    def run(config):
        calls.append(config)
        for trial in config.trials:
            auroc = config.epsilon + config.epochs / 100
            models = {"pmal": {"acc": 1.0, "dr": {"auroc": auroc}}}
            path = config.run_folder / f"trial_{trial}" / "result.json"
            write_json(path, {"method": "pmal", "models": models})

    monkeypatch.setattr(search, "run_experiment", run)
    return calls


def test_a_point_that_keras_tuner_lost_is_run(tmp_path, runs_of_nothing):
    sweep = tiny_sweep(tmp_path, space=parse_space(["epsilon=0.3,0.7"]))
    run_sweep(sweep)
    # Killed between the point's file and the oracle's.
    state = json.loads((sweep.folder / "tuner" / "oracle.json").read_text())
    state["start_order"].remove("0001")
    state["end_order"].remove("0001")
    (sweep.folder / "tuner" / "oracle.json").write_text(json.dumps(state))
    path = sweep.folder / "tuner" / "trial_0001" / "trial.json"
    path.write_text(path.read_text().replace("COMPLETED", "RUNNING"))
    runs_of_nothing.clear()
    table = run_sweep(sweep)
    assert [config.epsilon for config in runs_of_nothing] == [0.7]
    assert "| 0.7 " in table


def test_damaged_records_of_keras_tuner_are_told(tmp_path, runs_of_nothing):
    sweep = tiny_sweep(tmp_path)
    run_sweep(sweep)
    path = sweep.folder / "tuner" / "oracle.json"
    path.write_text(path.read_text()[:300])
    with pytest.raises(PmalError, match="Move that folder away"):
        run_sweep(sweep)


@pytest.mark.parametrize("tuner", ["random", "bayesian", "hyperband"])
def test_sweeps_that_draw_go_on_too(tmp_path, runs_of_nothing, tuner, monkeypatch):
    config = tiny_sweep(tmp_path).config.changed(epochs=6)
    sweep = tiny_sweep(
        tmp_path,
        config=config,
        space=parse_space(["epsilon=0.3..0.9"]),
        tuner=tuner,
        max_points=5,
    )
    run = search.run_experiment

    def killed(config):
        if len(runs_of_nothing) == 2:
            raise Interrupted(15)
        run(config)

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_experiment", killed)
        with pytest.raises(Interrupted):
            run_sweep(sweep)
    table = run_sweep(sweep)
    names = [config.experiment for config in runs_of_nothing]
    assert all(0.3 <= config.epsilon <= 0.9 for config in runs_of_nothing)
    if tuner == "hyperband":
        assert len(set(names)) == len(names)
    else:  # What seems best may be visited again.
        assert len(names) == 5
    best = max(c.epsilon for c in runs_of_nothing if c.epochs == 6)
    assert f"Best: epsilon {best}." in table


def test_budgets_of_hyperband_are_not_averaged(tmp_path, runs_of_nothing):
    config = tiny_sweep(tmp_path).config.changed(epochs=6)
    space = parse_space(["epsilon=0.3..0.9"])
    sweep = tiny_sweep(tmp_path, config=config, space=space, tuner="hyperband")
    table = run_sweep(sweep)
    assert len({config.epochs for config in runs_of_nothing}) > 1
    assert "Rows and the best are of points with 6 epochs" in table
    header = next(line for line in table.splitlines() if line.startswith("| epsilon"))
    long = {config.epsilon for config in runs_of_nothing if config.epochs == 6}
    assert len(header.split("|")) - 3 == len(long)


def test_other_images_have_a_sweep_of_their_own(tmp_path):
    folders = set()
    for name in ("one", "two"):
        make_images(tmp_path / name)
        config = Config(
            dataset="folder", data_dir=str(tmp_path / name), workdir=str(tmp_path)
        )
        folders.add(str(tiny_sweep(tmp_path, config=config).folder))
    assert len(folders) == 2


def make_images(folder):
    for kind in ("cat", "dog"):
        path = folder / "train" / kind / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
