"""Starting again: what is skipped, made anew, or refused, and what is never lost."""

import dataclasses
import json
import shutil

import pytest
from tiny_run import STAGES_WITHOUT_CONTROL, tiny, trial_folder

from pmal_tf.errors import PmalError, TrainingDivergedError
from pmal_tf.experiment import run_experiment
from pmal_tf.training.checkpoints import list_checkpoints


def test_second_start_skips_everything(run_copy, started):
    table = run_experiment(tiny(run_copy))
    assert started == []
    summary = (run_copy / "runs" / "tiny" / "summary.md").read_text()
    assert table.startswith(summary)


def test_another_configuration_in_the_folder_is_refused(run_copy, started):
    with pytest.raises(PmalError, match=r"epsilon: 0.7 -> 0.5; margin: 0.5 -> 0.3"):
        run_experiment(tiny(run_copy, epsilon=0.5, margin=0.3))
    assert started == []
    run_experiment(tiny(run_copy))  # Nothing was lost.
    assert started == []


def test_overwrite_makes_the_named_stages_and_what_follows_anew(run_copy, started):
    changed = tiny(run_copy, margin=0.3)
    run_experiment(
        dataclasses.replace(changed, overwrite=True, stages=("optimize", "evaluate"))
    )
    assert started == ["optimize", "evaluate"]
    started.clear()
    run_experiment(changed)
    assert started == ["export"]
    versions = run_copy / "saved_models" / "tiny" / "trial_0"
    assert sorted(path.name for path in versions.iterdir()) == ["1", "2"]


def test_overwriting_too_little_names_what_is_old(run_copy, started):
    changed = tiny(run_copy, epochs=4, overwrite=True, stages=("optimize",))
    with pytest.raises(PmalError, match=r"pretrain_0.*epochs: 3 -> 4.*--stages=pretr"):
        run_experiment(changed)
    run_experiment(tiny(run_copy))  # The refusal changed nothing.
    assert started == []


def test_a_stage_without_the_ones_before_it_is_refused(tmp_path):
    with pytest.raises(
        PmalError, match=r"pretrain_0 of .* is not finished\. Run the same"
    ):
        run_experiment(tiny(tmp_path, stages=("mine",)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda trial: (trial / "mining" / "prototypes.npz").write_bytes(b"PK"),
        lambda trial: (trial / "pretrain_1" / "model.keras").unlink(),
        lambda trial: (trial / "optimize" / "done.json").write_text('{"inputs": {}'),
        lambda trial: (trial / "config.json").write_text("{"),
        lambda trial: (trial / "mining" / "done.json").write_text("[]"),
        lambda trial: (trial / "config.json").write_text("[]"),
    ],
)
def test_damaged_run_folders_are_refused_with_a_sentence(run_copy, started, damage):
    damage(trial_folder(run_copy))
    with pytest.raises(PmalError, match=r"Received: .*trial_0"):
        run_experiment(tiny(run_copy))
    assert started == []


def test_half_made_stage_is_made_again(run_copy, started):
    # As a kill leaves it: files but no marker.
    (trial_folder(run_copy) / "evaluate" / "done.json").unlink()
    (trial_folder(run_copy) / "writing.scores.npz").write_bytes(b"half")
    before = (trial_folder(run_copy) / "scores.npz").read_bytes()
    run_experiment(tiny(run_copy))
    # The same scores again, so the export that was made from them stands.
    assert started == ["evaluate"]
    assert (trial_folder(run_copy) / "scores.npz").read_bytes() == before


def test_lost_export_is_made_again(run_copy, started):
    shutil.rmtree(run_copy / "saved_models")
    run_experiment(tiny(run_copy))
    assert started == ["export"]
    assert (run_copy / "saved_models" / "tiny" / "trial_0" / "1").is_dir()


def test_other_images_than_before_are_refused(run_copy, monkeypatch):
    trial = trial_folder(run_copy)
    (trial / "optimize" / "done.json").unlink()
    record = json.loads((trial / "data.json").read_text())
    record["training"]["sha256"] = "0"
    (trial / "data.json").write_text(json.dumps(record))
    with pytest.raises(PmalError, match="other counts or pixels"):
        run_experiment(tiny(run_copy))


@pytest.mark.parametrize(
    ("flag", "name"), [("workdir", "runs"), ("export_dir", "saved_models")]
)
def test_folders_that_cannot_be_written_are_refused_first(tmp_path, flag, name):
    (tmp_path / name).write_text("a file is in the way")
    with pytest.raises(PmalError, match=rf"`{flag}` must be a folder.*--{flag}"):
        run_experiment(tiny(tmp_path))
    assert not (tmp_path / "runs" / "tiny" / "trial_0").exists()


def test_trial_that_does_not_exist_is_refused_before_any_work(tmp_path):
    with pytest.raises(PmalError, match=r"0\.\.4\. Received: trial=7"):
        run_experiment(tiny(tmp_path, trials=(0, 7)))
    assert not (tmp_path / "runs").exists()


def test_failure_while_overwriting_keeps_what_was_there(run_copy, started, monkeypatch):
    def fail(_trial):
        raise PmalError("no data today")

    before = (trial_folder(run_copy) / "mining" / "prototypes.npz").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("pmal_tf.stages.mine.run", fail)
        with pytest.raises(PmalError, match="no data today"):
            run_experiment(
                tiny(run_copy, epsilon=0.9, overwrite=True, stages=("mine",))
            )
    after = (trial_folder(run_copy) / "mining" / "prototypes.npz").read_bytes()
    assert after == before
    run_experiment(tiny(run_copy))
    assert started == []


def test_failure_before_the_stage_itself_begins_loses_nothing_either(
    run_copy, started, monkeypatch
):
    def disk_full(_seed):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("pmal_tf.runner.describe_environment", disk_full)
        with pytest.raises(OSError, match="no space left"):
            run_experiment(
                tiny(run_copy, epsilon=0.9, overwrite=True, stages=("mine",))
            )
    run_experiment(tiny(run_copy))
    assert started == []


def test_trials_of_one_experiment_share_one_configuration(run_copy, started):
    with pytest.raises(PmalError, match=r"trial_0, which differs in .*epochs: 3 -> 1"):
        run_experiment(tiny(run_copy, trials=(1,), epochs=1, protocol="paper"))
    assert started == []


def test_results_that_are_older_than_their_models_are_not_shown(run_copy, started):
    changed = tiny(run_copy, margin=0.3)
    table = run_experiment(
        dataclasses.replace(changed, overwrite=True, stages=("optimize",))
    )
    assert started == ["optimize"]
    assert table == "No trial is evaluated yet.\n"


def test_control_and_reject_rate_can_be_changed_later(tmp_path, started):
    without = tiny(tmp_path, control=False, stages=STAGES_WITHOUT_CONTROL)
    assert "control (M^1" not in run_experiment(without)
    started.clear()
    table = run_experiment(tiny(tmp_path, reject_rate=0.1))
    assert started == ["control", "evaluate", "export"]
    assert "control (M^1 trained on)" in table
    calibration = json.loads((trial_folder(tmp_path) / "calibration.json").read_text())
    assert calibration["reject_rate"] == 0.1


def test_checkpoints_made_from_other_prototypes_are_not_resumed(
    run_copy, finished, monkeypatch
):
    """Killed in `optimize`, then mined anew: the same as never having been killed."""
    optimize = trial_folder(run_copy) / "optimize"
    shutil.rmtree(optimize)
    monkeypatch.setattr("pmal_tf.training.checkpoints._LEAST_SECONDS", 0.0)

    def killed(_model, _records):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pmal_tf.stages.optimize.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny(run_copy))
    assert list_checkpoints(optimize)
    again = tiny(run_copy, epsilon=0.99)
    run_experiment(dataclasses.replace(again, overwrite=True, stages=("mine",)))
    run_experiment(dataclasses.replace(again, stages=("optimize",)))
    lines = (trial_folder(run_copy) / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(x)["epoch"] for x in lines if '"stage": "optimize"' in x]
    assert epochs == [1, 2, 3]
    first = json.loads(next(x for x in lines if '"stage": "optimize"' in x))
    old = (trial_folder(finished[0]) / "metrics.jsonl").read_text().splitlines()
    old_first = json.loads(next(x for x in old if '"stage": "optimize"' in x))
    assert first["prototype_loss"] != old_first["prototype_loss"]
    assert not list_checkpoints(optimize)


def test_export_that_was_killed_before_its_marker_keeps_its_version(run_copy, started):
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


def test_divergence_names_stage_and_step_and_keeps_what_was_made(run_copy, started):
    changed = tiny(run_copy, prototype_weight=1e38, overwrite=True)
    with pytest.raises(TrainingDivergedError, match=r"stage optimize: .* step \d+ of"):
        run_experiment(dataclasses.replace(changed, stages=("optimize",), margin=2.0))
    assert started == []
    assert (trial_folder(run_copy) / "pretrain_0" / "model.keras").exists()


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


def test_scores_older_than_withheld_images_are_made_anew(run_copy, started):
    path = trial_folder(run_copy) / "evaluate" / "done.json"
    marker = json.loads(path.read_text())
    del marker["facts"]["calibration"]
    path.write_text(json.dumps(marker))
    run_experiment(tiny(run_copy))
    # The scores are the same, and so is what was made from them.
    assert started == ["evaluate"]
