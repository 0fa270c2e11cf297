import re

import pytest
from made_runs import edit, make_trial, model, write_marker

from pmal_tf.results.collect.run_folders import collect_runs
from pmal_tf.runtime.errors import PmalError


def test_trials_are_read_in_order_of_number(tmp_path):
    for trial in (10, 2, 0):
        make_trial(tmp_path / "a", trial)
    (experiment,) = collect_runs(tmp_path)
    assert experiment.name == "a"
    assert [run.trial for run in experiment.trials] == [0, 2, 10]
    assert experiment.unfinished == {}
    assert experiment.result["protocol"] == "neal"
    assert (experiment.result["method"], experiment.title) == ("pmal", "PMAL")
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


def test_another_method_has_its_own_name_and_baseline(tmp_path):
    models = {"arpl": model(dr=None), "softmax": model(dr=None)}
    settings = {"method": "arpl", "baseline": "softmax", "compare": ["softmax"]}
    make_trial(tmp_path / "a", 0, models=models, **settings)
    (experiment,) = collect_runs(tmp_path)
    assert experiment.title == "ARPL"
    assert experiment.models == {"arpl": "ARPL", "softmax": "softmax (M^1)"}
    make_trial(tmp_path / "b", 0, models={"pmal": model()})
    _, other = collect_runs(tmp_path)
    assert other.models == {"pmal": "PMAL", "control": "control"}  # It was not run.


def test_groups_are_read_and_shared_and_other_folders_are_not(tmp_path):
    make_trial(tmp_path / "b", 0)
    # Experiments may differ in everything.
    make_trial(tmp_path / "group" / "a", 0, epochs=9, versions={"tensorflow": "1"})
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
    assert experiment.unfinished == {half: f"it has no {name}"}
    # So is one whose model is newer than its evaluation.
    old = make_trial(tmp_path / "a", 1)
    write_marker(old, "optimize", made="anew")
    (experiment,) = collect_runs(tmp_path)
    expected = "optimize was made anew since it was evaluated"
    assert experiment.unfinished == {old: expected}


def test_stages_in_a_circle_are_refused_in_a_sentence(tmp_path):
    path = make_trial(tmp_path / "a", 0)
    edit(path / "mining" / "done.json", upstream={"optimize": "any"})
    message = (
        r"a/trial_0, where by .* done.json (\w+) is made from \w+ is made from \1\."
    )
    with pytest.raises(PmalError, match=message):
        collect_runs(tmp_path)


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
    ("change", "message"),
    [
        ({"epochs": 6}, "settings.* epochs: 5 -> 6"),
        ({"seed": 1}, "settings.* seed: 0 -> 1"),
        ({"compare": ["softmax"]}, "settings.* compare: "),
        (
            {"versions": {"tensorflow": "2.20.0"}},
            r"package versions.*tensorflow: '2\.21\.0' -> '2\.20\.0'",
        ),
    ],
)
def test_trials_that_are_not_alike_are_refused(tmp_path, change, message):
    make_trial(tmp_path / "a", 0)
    make_trial(tmp_path / "a", 1, **change)
    with pytest.raises(PmalError, match=f"same {message}") as error:
        collect_runs(tmp_path)
    assert re.search("a/trial_0 and .*a/trial_1, which differ in ", str(error.value))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"epochs": 600}, "epochs: 5 -> 600"),
        ("result.json", {"epochs": 600}, "epochs: 5 -> 600"),
        # It held no class out for tuning.
        ("result.json", {"protocol": "neal_tuning"}, "protocol: 'neal' -> 'neal_t"),
    ],
)
def test_records_that_contradict_the_marker_are_refused(
    tmp_path, name, changes, message
):
    edit(make_trial(tmp_path / "a", 0) / name, **changes)
    with pytest.raises(PmalError, match=rf"whose {name} differs .*{message}"):
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


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("environment.json", None, r"record of the run is damaged.*environment"),
        ("environment.json", ("python", "devices"), "without python, devices"),
        ("result.json", {"models": {"softmax": model()}}, "without models of pmal"),
        ("result.json", ("known", "models"), r"result\.json without known, models"),
        ("result.json", ("method", "files"), r"result\.json without method, files"),
        ("evaluate/done.json", ("inputs",), r"evaluate/done\.json without inputs"),
    ],
)
def test_damaged_records_are_refused(tmp_path, name, damage, message):
    path = make_trial(tmp_path / "a", 0) / name
    if damage is None:
        path.write_text("{")
    elif isinstance(damage, dict):
        edit(path, **damage)
    else:
        edit(path, *damage)
    with pytest.raises(PmalError, match=message):
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
