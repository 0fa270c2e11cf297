import pytest
from made_runs import edit, make_old, make_trial, model, write_marker

from pmal_tf.results.collect.run_folders import collect_runs, read_result
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_json


def test_trials_are_read_in_order_of_number(tmp_path):
    for trial in (10, 2, 0):
        make_trial(tmp_path / "a", trial)
    (experiment,) = collect_runs(tmp_path)
    assert experiment.name == "a"
    assert [run.trial for run in experiment.trials] == [0, 2, 10]
    assert experiment.unfinished == ()
    assert experiment.result["protocol"] == "neal"
    assert (experiment.method, experiment.title) == ("pmal", "PMAL")
    assert experiment.summary["models"]["pmal"]["acc"]["n"] == 3
    first = experiment.trials[0]
    assert first.folder == tmp_path / "a" / "trial_0"
    assert list(first.seconds.items()) == [
        *(("mining", 10.0), ("optimize", 60.0), ("evaluate", 6.0))
    ]
    assert first.versions["tensorflow"] == "2.21.0"
    assert first.calibration is None


def test_stages_stand_in_the_order_in_which_one_is_made_from_another(tmp_path):
    path = make_trial(tmp_path / "a", 0)
    write_marker(path, "pretrain_1")
    write_marker(path, "pretrain_0")
    write_marker(path, "mining", "pretrain_0", "pretrain_1")
    write_marker(path, "another", "mining")
    write_marker(path, "optimize", "mining")
    write_marker(path, "evaluate", "another", "optimize", inputs={"epochs": 5})
    (path / "pretrain_0" / "done.json").unlink()  # Tidied away.
    (experiment,) = collect_runs(tmp_path)
    assert list(experiment.trials[0].seconds) == [
        *("pretrain_1", "mining", "another", "optimize", "evaluate")
    ]


def test_settings_come_without_names_images_and_versions(tmp_path):
    make_trial(tmp_path / "a", 3, epochs=7)
    (experiment,) = collect_runs(tmp_path)
    strange = {"trial", "experiment", "test", "version of keras"}
    assert not strange & set(experiment.config)
    assert experiment.config["epochs"] == 7
    assert experiment.config["compare"] == ["softmax", "control"]


def test_results_of_the_version_before_other_methods_are_read(tmp_path):
    make_old(make_trial(tmp_path / "old", 0))
    make_trial(tmp_path / "new", 0)
    new, old = collect_runs(tmp_path)
    assert new.result == {**old.result, "experiment": "new"}
    assert old.models == new.models
    assert list(old.models) == ["pmal", "softmax", "control"]
    assert old.config["method"] == "pmal"
    assert old.config["set_distance"] == "attention"
    assert old.config["mining_repeats"] == 0
    assert read_result(tmp_path / "old" / "trial_0")["files"] == {
        "pmal": "scores.npz",
        "softmax": "scores_softmax.npz",
        "control": "scores_control.npz",
    }


def test_another_method_has_its_own_name_and_baseline(tmp_path):
    models = {"arpl": model(dr=None), "softmax": model(dr=None)}
    settings = {"method": "arpl", "baseline": "softmax", "compare": ["softmax"]}
    make_trial(tmp_path / "a", 0, models=models, **settings)
    (experiment,) = collect_runs(tmp_path)
    assert (experiment.method, experiment.title) == ("arpl", "ARPL")
    assert experiment.models == {"arpl": "ARPL", "softmax": "softmax (M^1)"}


def test_a_baseline_that_was_not_run_is_among_the_models(tmp_path):
    make_trial(tmp_path / "a", 0, models={"pmal": model()})
    (experiment,) = collect_runs(tmp_path)
    assert experiment.models == {"pmal": "PMAL", "control": "control"}


def test_groups_are_read_and_shared_and_other_folders_are_not(tmp_path):
    make_trial(tmp_path / "b", 0)
    make_trial(tmp_path / "group" / "a", 0)
    make_trial(tmp_path / "shared", 0)
    make_trial(tmp_path / "store", 0)
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
    write_marker(old, "optimize", made="anew")
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
        ("compare", ["softmax"]),
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
    make_trial(tmp_path / "a", 0, result={"protocol": "custom"})
    assert collect_runs(tmp_path)[0].result["protocol"] == "custom"


@pytest.mark.parametrize("tuning", [False, True])
def test_a_dataset_with_a_split_of_its_own_is_no_contradiction(tmp_path, tuning):
    # Of a folder of one's own images, the setting is left at its default.
    folder = make_trial(
        tmp_path / "mine",
        0,
        **{"dataset": "folder", "protocol": "paper", "tuning_held_out": tuning},
        result={"protocol": "folder_tuning" if tuning else "folder"},
    )
    make_trial(tmp_path / "other", 0)
    mine, other = collect_runs(tmp_path)
    assert mine.result["protocol"].startswith("folder")
    assert other.result["protocol"] == "neal"
    edit(folder / "result.json", protocol="arpl")
    with pytest.raises(PmalError, match="protocol: 'paper' -> 'arpl'"):
        collect_runs(tmp_path)


def test_a_damaged_record_is_refused(tmp_path):
    (make_trial(tmp_path / "a", 0) / "environment.json").write_text("{")
    with pytest.raises(PmalError, match=r"record of the run is damaged.*environment"):
        collect_runs(tmp_path)


def test_a_result_that_lacks_something_is_refused(tmp_path):
    path = make_trial(tmp_path / "a", 0)
    edit(path / "result.json", "known", "models")
    with pytest.raises(PmalError, match=r"result\.json without known, models"):
        collect_runs(tmp_path)


def test_a_result_without_its_own_method_is_refused(tmp_path):
    make_trial(tmp_path / "a", 0, models={"softmax": model()})
    with pytest.raises(PmalError, match=r"result\.json without models of pmal"):
        collect_runs(tmp_path)


def test_a_marker_without_settings_is_refused(tmp_path):
    edit(make_trial(tmp_path / "a", 0) / "evaluate" / "done.json", inputs=None)
    with pytest.raises(PmalError, match=r"marker .*evaluate/done\.json without inputs"):
        collect_runs(tmp_path)


def test_a_sweep_beside_other_runs_is_read(tmp_path):
    make_trial(tmp_path / "cifar10", 0)
    point = tmp_path / "sweep-12ab" / "epsilon-0.3"
    result = {"protocol": "neal_tuning"}
    make_trial(point, 0, tuning_held_out=True, result=result)
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
    make_trial(tmp_path / "cifar10", 0, result={"protocol": "neal_tuning"})
    with pytest.raises(PmalError, match="must tell of the same settings"):
        collect_runs(tmp_path)
