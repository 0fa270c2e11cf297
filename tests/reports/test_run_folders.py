import json

import pytest
from made_runs import make_trial

from pmal_tf.errors import PmalError
from pmal_tf.reports.run_folders import collect_runs
from pmal_tf.workdir import Marker, read_json, write_json


def edit(path, **changes):
    write_json(path, {**read_json(path), **changes})


def test_trials_are_read_in_order_of_number(tmp_path):
    for trial in (10, 2, 0):
        make_trial(tmp_path / "a", trial)
    (experiment,) = collect_runs(tmp_path)
    assert experiment.name == "a"
    assert [run.trial for run in experiment.trials] == [0, 2, 10]
    assert experiment.unfinished == ()
    assert experiment.protocol == "neal"
    first = experiment.trials[0]
    assert first.folder == tmp_path / "a" / "trial_0"
    assert first.seconds == {"optimize": 60.0, "evaluate": 6.0}
    assert first.versions["tensorflow"] == "2.21.0"
    assert first.calibration is None


def test_settings_come_without_the_trial_and_with_those_added_later(tmp_path):
    make_trial(tmp_path / "a", 3, epochs=7)
    (experiment,) = collect_runs(tmp_path)
    assert "trial" not in experiment.config
    assert experiment.config["epochs"] == 7
    assert experiment.config["tuning_held_out"] is False


def test_groups_are_read_and_shared_and_other_folders_are_not(tmp_path):
    make_trial(tmp_path / "b", 0)
    make_trial(tmp_path / "group" / "a", 0)
    make_trial(tmp_path / "shared", 0)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("")
    names = [experiment.name for experiment in collect_runs(tmp_path)]
    assert names == ["b", "group/a"]


@pytest.mark.parametrize("name", ["result.json", "evaluate/done.json"])
def test_a_half_finished_trial_is_listed_and_not_averaged(tmp_path, name):
    make_trial(tmp_path / "a", 0)
    half = make_trial(tmp_path / "a", 1)
    (half / name).unlink()
    (experiment,) = collect_runs(tmp_path)
    assert [run.trial for run in experiment.trials] == [0]
    assert experiment.unfinished == ((half, f"it has no {name}"),)


def test_an_evaluation_older_than_the_model_is_unfinished(tmp_path):
    make_trial(tmp_path / "a", 0)
    old = make_trial(tmp_path / "a", 1)
    Marker({"epochs": 9}, {}, {}, 1.0, {}).write(old / "optimize")
    (experiment,) = collect_runs(tmp_path)
    expected = "optimize was made anew since it was evaluated"
    assert experiment.unfinished == ((old, expected),)


def test_a_stage_that_has_begun_again_makes_a_trial_unfinished(tmp_path):
    make_trial(tmp_path / "a", 0)
    again = make_trial(tmp_path / "a", 1)
    write_json(again / "control" / "started.json", {})
    write_json(tmp_path / "a" / "trial_0" / "export" / "started.json", {})
    (experiment,) = collect_runs(tmp_path)
    assert [run.trial for run in experiment.trials] == [0]
    assert experiment.unfinished[0][1] == "control has begun and is not finished"


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(PmalError, match=r"must hold run folders.*which holds none"):
        collect_runs(tmp_path)
    with pytest.raises(PmalError, match=r"Received: .*nowhere, which is no folder"):
        collect_runs(tmp_path / "nowhere")


def test_runs_of_which_none_is_finished_are_refused(tmp_path):
    (make_trial(tmp_path / "a", 0) / "result.json").unlink()
    with pytest.raises(PmalError, match=r"needs a finished trial.*no result\.json"):
        collect_runs(tmp_path)


def test_two_runs_of_one_trial_are_refused_and_both_are_named(tmp_path):
    make_trial(tmp_path / "a", 1)
    make_trial(tmp_path / "a", 1, folder="trial_01")
    with pytest.raises(PmalError, match=r"a/trial_01 and .*a/trial_1, both of trial 1"):
        collect_runs(tmp_path)


def test_a_result_of_another_trial_than_its_folder_is_refused(tmp_path):
    make_trial(tmp_path / "a", 1)
    make_trial(tmp_path / "a", 1, folder="trial_2")
    message = r"trial_2, whose result\.json is of trial 1, which belongs into .*trial_1"
    with pytest.raises(PmalError, match=message):
        collect_runs(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "paper"),
        ("epochs", 6),
        ("train_images_per_class", 1000),
        ("width", 0.5),
        ("batch_size", 32),
        ("seed", 1),
        ("set_distance", "nearest"),
        ("control", False),
    ],
)
def test_trials_of_mixed_settings_are_refused(tmp_path, name, value):
    make_trial(tmp_path / "a", 0)
    make_trial(tmp_path / "a", 1, **{name: value})
    message = rf"same settings.*a/trial_0 and .*a/trial_1, which differ in {name}: "
    with pytest.raises(PmalError, match=message):
        collect_runs(tmp_path)


def test_trials_of_mixed_package_versions_are_refused(tmp_path):
    make_trial(tmp_path / "a", 0)
    make_trial(tmp_path / "a", 1, versions={"tensorflow": "2.20.0"})
    message = r"same package versions.*tensorflow: '2\.21\.0' -> '2\.20\.0'"
    with pytest.raises(PmalError, match=message):
        collect_runs(tmp_path)


def test_experiments_may_differ_in_everything(tmp_path):
    make_trial(tmp_path / "a", 0)
    make_trial(tmp_path / "b", 0, epochs=9, versions={"tensorflow": "2.20.0"})
    assert len(collect_runs(tmp_path)) == 2


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_records_that_contradict_the_marker_are_refused(tmp_path, name):
    edit(make_trial(tmp_path / "a", 0) / name, epochs=600)
    with pytest.raises(PmalError, match=rf"whose {name} differs .*epochs: 5 -> 600"):
        collect_runs(tmp_path)


def test_a_protocol_of_ones_own_classes_is_no_contradiction(tmp_path):
    edit(make_trial(tmp_path / "a", 0) / "result.json", protocol="custom")
    assert collect_runs(tmp_path)[0].protocol == "custom"


def test_a_damaged_record_is_refused(tmp_path):
    (make_trial(tmp_path / "a", 0) / "environment.json").write_text("{")
    with pytest.raises(PmalError, match=r"record of the run is damaged.*environment"):
        collect_runs(tmp_path)


def test_a_result_that_lacks_something_is_refused(tmp_path):
    path = make_trial(tmp_path / "a", 0) / "result.json"
    content = read_json(path)
    del content["known"], content["models"]
    write_json(path, content)
    with pytest.raises(PmalError, match=r"result\.json without known, models"):
        collect_runs(tmp_path)


def test_a_sweep_beside_other_runs_is_read(tmp_path):
    make_trial(tmp_path / "cifar10", 0)
    point = tmp_path / "sweep-12ab" / "epsilon-0.3"
    folder = make_trial(point, 0, tuning_held_out=True)
    result = json.loads((folder / "result.json").read_text())
    result["protocol"] = "neal_tuning"
    (folder / "result.json").write_text(json.dumps(result))
    # KerasTuner's own records, and stages that points share.
    for inner in ("tuner", "shared"):
        records = tmp_path / "sweep-12ab" / inner / "trial_0000"
        records.mkdir(parents=True)
        (records / "trial.json").write_text("{}")
    experiments = collect_runs(tmp_path)
    assert [experiment.name for experiment in experiments] == [
        "cifar10",
        "sweep-12ab/epsilon-0.3",
    ]
    assert not any(experiment.unfinished for experiment in experiments)


def test_a_run_that_held_nothing_out_has_no_tuning_protocol(tmp_path):
    folder = make_trial(tmp_path / "cifar10", 0)
    result = json.loads((folder / "result.json").read_text())
    result["protocol"] = "neal_tuning"
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(PmalError, match="must tell of the same settings"):
        collect_runs(tmp_path)
