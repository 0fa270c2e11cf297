"""Starting again: what is skipped, taken or made anew, and what is never lost."""

import json
import shutil

import pytest
from quick_run import quick_stages
from tiny_run import STAGES, STAGES_WITHOUT_CONTROL, tiny, trial_folder

from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.experiment import run_experiment


@pytest.fixture(autouse=True)
def _quick():
    with quick_stages():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Takes the place of a run that was trained; `run_copy` is a copy of this one."""
    folder = tmp_path_factory.mktemp("finished")
    with quick_stages():
        return folder, run_experiment(tiny(folder))


def test_second_start_skips_everything(run_copy, started):
    table = run_experiment(tiny(run_copy))
    assert started == []
    summary = (run_copy / "runs" / "tiny" / "summary.md").read_text()
    assert table.startswith(summary)


def test_a_changed_flag_remakes_what_depends_on_it(run_copy, started, caplog):
    with caplog.at_level("INFO", logger="absl"):
        run_experiment(tiny(run_copy, epsilon=0.5))
    assert started == ["mining", "optimize", "evaluate", "export"]
    assert "mining: made anew, since epsilon: 0.7 -> 0.5" in caplog.text
    started.clear()
    run_experiment(tiny(run_copy))  # And back: only a served version is new.
    assert started == ["export"]
    versions = run_copy / "saved_models" / "tiny" / "trial_0"
    assert sorted(path.name for path in versions.iterdir()) == ["1", "2", "3"]


def test_overwrite_makes_the_named_stages_anew(run_copy, started):
    run_experiment(tiny(run_copy, overwrite=True, stages=("optimize",)))
    assert started == ["optimize"]
    started.clear()
    run_experiment(tiny(run_copy))
    # Hardly the same file again, as Keras writes the time into it.
    assert started == ["evaluate", "export"]


def test_overwrite_alone_makes_everything_anew(run_copy, started):
    run_experiment(tiny(run_copy, overwrite=True, epochs=1))
    assert set(started) == STAGES


def test_a_stage_that_the_run_does_not_have_is_refused(tmp_path):
    with pytest.raises(PmalError, match=r"`stages` must name .*Received: stages=train"):
        run_experiment(tiny(tmp_path, stages=("train",)))
    with pytest.raises(PmalError, match=r"with --method or --compare"):
        run_experiment(tiny(tmp_path, stages=("control",), compare=("softmax",)))


def test_lost_export_is_made_again(run_copy, started):
    shutil.rmtree(run_copy / "saved_models")
    run_experiment(tiny(run_copy))
    assert started == ["export"]
    assert (run_copy / "saved_models" / "tiny" / "trial_0" / "1").is_dir()


@pytest.mark.parametrize(
    ("flag", "name"),
    [("workdir", "runs"), ("export_dir", "saved_models"), ("store_dir", "runs/store")],
)
def test_folders_that_cannot_be_written_are_refused_first(tmp_path, flag, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a file is in the way")
    with pytest.raises(PmalError, match=rf"`{flag}` must be a folder.*--{flag}"):
        run_experiment(tiny(tmp_path))
    assert not (tmp_path / "runs" / "tiny" / "trial_0").exists()


def test_trial_that_does_not_exist_is_refused_before_any_work(tmp_path):
    with pytest.raises(PmalError, match=r"0\.\.4\. Received: trial=7"):
        run_experiment(tiny(tmp_path, trials=(0, 7)))
    assert not (tmp_path / "runs").exists()


def test_trials_of_other_settings_are_left_out_of_the_table(run_copy, caplog):
    table = run_experiment(tiny(run_copy, trials=(1,), epochs=1, tensorboard=False))
    assert "trials 1 (n = 1)" in table
    assert "Trial 0 is left out of the table" in caplog.text


def test_a_table_of_several_trials_has_means_and_spreads(tmp_path):
    table = run_experiment(tiny(tmp_path, trials=(3, 4), tensorboard=False))
    assert "trials 3, 4 (n = 2)" in table
    assert " ± " in table


def test_results_that_are_older_than_their_models_are_not_shown(run_copy, started):
    table = run_experiment(tiny(run_copy, margin=0.3, stages=("optimize",)))
    assert started == ["optimize"]
    assert table == "No trial is evaluated yet.\n"


def test_control_and_reject_rate_can_be_changed_later(tmp_path, started):
    without = tiny(tmp_path, compare=("softmax",), stages=STAGES_WITHOUT_CONTROL)
    assert "control (M^1" not in run_experiment(without)
    started.clear()
    table = run_experiment(tiny(tmp_path, reject_rate=0.1))
    assert started == ["control", "evaluate", "export"]
    assert "control (M^1 trained on)" in table
    calibration = json.loads((trial_folder(tmp_path) / "calibration.json").read_text())
    assert calibration["reject_rate"] == 0.1


def test_export_that_was_killed_before_its_marker_keeps_its_version(run_copy, started):
    for entry in (run_copy / "runs" / "store").glob("export-*"):
        shutil.rmtree(entry)
    (trial_folder(run_copy) / "export" / "done.json").unlink()
    run_experiment(tiny(run_copy))
    assert started == ["export"]
    versions = run_copy / "saved_models" / "tiny" / "trial_0"
    assert [path.name for path in versions.iterdir()] == ["1"]


def test_skipping_does_not_rewrite_the_record_of_the_environment(run_copy):
    path = trial_folder(run_copy) / "environment.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 77'))
    run_experiment(tiny(run_copy))
    assert '"seed": 77' in path.read_text()


def test_folders_that_are_not_trials_are_left_alone(run_copy):
    other = run_copy / "runs" / "tiny" / "trial_0_old"
    other.mkdir()
    (other / "result.json").write_text("{}")
    assert "(n = 1)" in run_experiment(tiny(run_copy))


def exported_version(folder, number):
    version = folder / "saved_models" / "tiny" / "trial_0" / number
    return json.loads((version / "metadata.json").read_text())


def test_another_rule_is_another_version_and_nothing_else(run_copy, started):
    run_experiment(tiny(run_copy, rule="pr", keep_versions=2))
    assert started == ["export"]
    one, two = (exported_version(run_copy, number) for number in "12")
    assert (one["rule"], two["rule"]) == ("dr", "pr")
    calibration = json.loads((trial_folder(run_copy) / "calibration.json").read_text())
    threshold = calibration["rules"]["pr"]["threshold"]
    assert two["threshold"] == pytest.approx(threshold, rel=1e-6)
    run_experiment(tiny(run_copy, rule="mls", keep_versions=2))
    assert not (run_copy / "saved_models" / "tiny" / "trial_0" / "1").exists()
    assert exported_version(run_copy, "3")["rule"] == "mls"


def test_an_export_can_be_made_anew(run_copy, started):
    config = tiny(run_copy, overwrite=True, stages=("export",))
    run_experiment(config)
    assert started == ["export"]
    assert exported_version(run_copy, "2")["sha256"]


def test_another_model_of_the_same_version_is_not_taken_for_this_one(run_copy, started):
    shutil.rmtree(run_copy / "saved_models")
    run_experiment(tiny(run_copy, rule="mls"))
    assert exported_version(run_copy, "1")["rule"] == "mls"
    shutil.rmtree(run_copy / "saved_models" / "tiny" / "trial_0" / "1")
    run_experiment(tiny(run_copy, rule="pr"))
    started.clear()
    table = run_experiment(tiny(run_copy, rule="mls"))
    assert started == ["export"]
    assert exported_version(run_copy, "2")["rule"] == "mls"
    assert "whose MLS is above" in table


def test_the_table_is_of_these_settings_whatever_the_folder_shows(run_copy):
    run_experiment(tiny(run_copy, trials=(0,), reject_rate=0.2))
    table = run_experiment(tiny(run_copy, stages=("pretrain",)))
    assert "set to reject at most 5.0 %" in table
    # Nor does it speak of the export of the other settings.
    assert "Exported" not in table
