"""A whole experiment on the digits: every stage, file, skip and refusal."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from pmal_tf import experiment
from pmal_tf.api import load_model
from pmal_tf.config import Config
from pmal_tf.errors import PmalError, TrainingDivergedError
from pmal_tf.experiment import run_experiment
from pmal_tf.reports.overview import draw_overview
from pmal_tf.stages import control, optimize
from pmal_tf.training.checkpoints import EpochCheckpoint, list_checkpoints
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker

STAGES = {
    *("pretrain_0", "pretrain_1", "mining", "optimize", "control", "evaluate"),
    "export",
}


STAGES_WITHOUT_CONTROL = ("pretrain", "mine", "optimize", "evaluate", "export")


def tiny(folder, **changes):
    return dataclasses.replace(
        Config(
            experiment="tiny",
            protocol="neal",
            workdir=str(folder / "runs"),
            export_dir=str(folder / "saved_models"),
            control=True,
            width=0.15,
            dropout=0.0,
            epochs=3,
            batch_size=16,
            learning_rate=0.003,
            schedule="cosine",
            prototypes_per_class=3,
        ),
        **changes,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    table = run_experiment(tiny(folder))
    return folder, table


@pytest.fixture
def run_copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """Names of the stages that were run, not skipped."""
    names = []
    write = Marker.write

    def recorded(marker, folder):
        names.append(folder.name)
        write(marker, folder)

    monkeypatch.setattr(Marker, "write", recorded)
    return names


def trial_folder(folder):
    return folder / "runs" / "tiny" / "trial_0"


def test_run_folder_explains_itself(finished):
    trial = trial_folder(finished[0])
    expected = {
        *("flags.txt", "config.json", "environment.json", "data.json"),
        *(f"{stage}/done.json" for stage in STAGES),
        *("pretrain_0/model.keras", "pretrain_1/model.keras"),
        *("optimize/model.keras", "control/model.keras"),
        *("mining/embedding_0.npy", "mining/embedding_1.npy"),
        *("mining/robustness.npz", "mining/prototypes.npz", "mining/report.json"),
        *("scores.npz", "scores_softmax.npz", "scores_control.npz"),
        *("result.json", "calibration.json", "metrics.jsonl"),
    }
    files = {
        str(path.relative_to(trial)) for path in trial.rglob("*") if path.is_file()
    }
    events = {name for name in files if name.startswith("tensorboard/")}
    assert files - events == expected
    assert {name.split("/")[1] for name in events} == {
        *("pretrain_0", "pretrain_1", "mining", "optimize", "control")
    }


def test_results_are_complete_and_in_range(finished):
    result = json.loads((trial_folder(finished[0]) / "result.json").read_text())
    assert result["protocol"] == "neal"
    assert result["known"] == ["2", "3", "4", "5", "8", "9"]
    assert result["unknown"] == ["0", "1", "6", "7"]
    assert result["openness"] == pytest.approx(0.133975, abs=1e-6)
    assert set(result["models"]) == {"pmal", "softmax", "control"}
    for metrics in result["models"].values():
        assert set(metrics) == {"acc", "macro_f1", "dr", "pr", "mls"}
        for rule in ("dr", "pr", "mls"):
            assert set(metrics[rule]) == {
                *("auroc", "oscr", "aupr_in", "aupr_out", "fpr95", "dtacc")
            }
            assert all(0.0 <= value <= 1.0 for value in metrics[rule].values())
            assert metrics[rule]["oscr"] <= metrics["acc"]
        # Three epochs at a sixth of the width are little, but far above chance (1/6).
        assert metrics["acc"] > 0.5
        assert metrics["mls"]["auroc"] > 0.5


def test_scores_cover_the_whole_test_set(finished):
    with np.load(trial_folder(finished[0]) / "scores.npz") as scores:
        count = len(scores["example_id"])
        assert count == 540  # 30 % of 1,797, whole.
        assert scores["distance"].shape == (count, 6)
        np.testing.assert_allclose(
            scores["dr"], scores["distance"].min(axis=1), atol=1e-7
        )
        np.testing.assert_array_equal(scores["is_unknown"], scores["class_index"] == -1)
        assert scores["is_unknown"].sum() == 217


def test_mined_prototypes_are_training_images_of_their_class(finished):
    mining = trial_folder(finished[0]) / "mining"
    prototypes, robustness = (
        dict(np.load(mining / f"{name}.npz")) for name in ("prototypes", "robustness")
    )
    assert prototypes["image"].shape == (18, 8, 8, 3)
    position = {name: n for n, name in enumerate(robustness["example_id"])}
    index = [position[name] for name in prototypes["example_id"]]
    np.testing.assert_array_equal(
        robustness["class_index"][index], prototypes["class_index"]
    )
    np.testing.assert_array_equal(
        robustness["robustness"][index], prototypes["robustness"]
    )
    embedding = np.load(mining / "embedding_0.npy", mmap_mode="r")
    assert isinstance(embedding, np.memmap)
    assert embedding.shape == (754, robustness["kernel_0"].shape[0])


def test_metrics_have_a_line_per_stage_and_epoch(finished):
    text = (trial_folder(finished[0]) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    seen = [(line["stage"], line["epoch"]) for line in lines]
    stages = ("pretrain_0", "pretrain_1", "optimize", "control")
    assert seen == [(stage, epoch) for stage in stages for epoch in (1, 2, 3)]
    assert all(line["images_per_second"] > 0 for line in lines)
    optimize = [line for line in lines if line["stage"] == "optimize"]
    assert all("prototype_loss" in line for line in optimize)


def test_table_names_every_model(finished):
    table = finished[1]
    for name in ("PMAL", "softmax (M^1)", "control (M^1 trained on)"):
        assert f"| {name} " in table
    folder = finished[0] / "runs" / "tiny"
    assert (folder / "summary.md").read_text() == table
    assert json.loads((folder / "summary.json").read_text())["models"]["pmal"]


def test_second_start_skips_everything(run_copy, started):
    table = run_experiment(tiny(run_copy))
    assert started == []
    assert (
        table.splitlines()[2:]
        == ((run_copy / "runs" / "tiny" / "summary.md").read_text().splitlines()[2:])
    )
    versions = run_copy / "saved_models" / "tiny" / "trial_0"
    assert [path.name for path in versions.iterdir()] == ["1"]


def test_same_seed_gives_bit_identical_scores(finished, tmp_path):
    run_experiment(tiny(tmp_path, tensorboard=False))
    first, second = (
        (trial_folder(folder) / "scores.npz").read_bytes()
        for folder in (finished[0], tmp_path)
    )
    assert first == second


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
        PmalError, match=r"pretrain_0 of .* is not finished\. Name pretrain"
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
    assert "control" not in run_experiment(without)
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
    monkeypatch.setattr(EpochCheckpoint.__init__, "__defaults__", (0.0,))

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


def test_every_model_is_what_its_name_says(finished):
    """Seeds differ by model; each score file is of its own model."""
    trial = trial_folder(finished[0])
    spaces = [np.load(trial / "mining" / f"embedding_{u}.npy") for u in (0, 1)]
    assert np.abs(spaces[0] - spaces[1]).max() > 0.01
    loaded = Trial(tiny(finished[0]), 0)
    for stage, name in (
        ("pretrain_0", "scores_softmax"),
        ("control", "scores_control"),
    ):
        classifier = load_model(trial / stage / "model.keras")
        expected = classifier.predict(loaded.test.image, verbose=0).max(axis=1)
        with np.load(trial / f"{name}.npz") as scores:
            np.testing.assert_allclose(-scores["mls"], expected, atol=1e-5)


def test_optimisation_and_control_start_from_m1_and_see_equal_batches(
    finished, monkeypatch
):
    seen = {}

    class StopError(Exception):
        pass

    def recorded(name):
        def fit(model, pipeline, *_arguments, seed, **_options):
            network = getattr(model, "network", model)
            seen[name] = (pipeline.seed, seed, network.get_weights())
            raise StopError

        return fit

    trial = Trial(tiny(finished[0]), 0)
    for stage, fit in ((optimize, "fit_pmal"), (control, "fit_classifier")):
        monkeypatch.setattr(stage, fit, recorded(stage))
        with pytest.raises(StopError):
            stage.run(trial)
    (order, dropout, weights), other = seen[optimize], seen[control]
    assert (order, dropout) == other[:2]
    start = load_model(trial.folder / "pretrain_0" / "model.keras").get_weights()
    for one, two, three in zip(weights, other[2], start, strict=True):
        np.testing.assert_array_equal(one, three)
        np.testing.assert_array_equal(two, three)
    # The pre-training that made M^1 had an order of its own.
    assert order != trial.pipeline("pretrain", 0).seed


def test_other_seed_gives_other_weights_and_prototypes(finished, tmp_path):
    run_experiment(tiny(tmp_path, seed=1, stages=("pretrain", "mine")))
    one, other = (
        np.load(trial_folder(folder) / "mining" / "embedding_0.npy")
        for folder in (finished[0], tmp_path)
    )
    assert not np.array_equal(one, other)


def test_divergence_names_stage_and_step_and_keeps_what_was_made(run_copy, started):
    changed = tiny(run_copy, prototype_weight=1e38, overwrite=True)
    with pytest.raises(TrainingDivergedError, match=r"stage optimize: .* step \d+ of"):
        run_experiment(dataclasses.replace(changed, stages=("optimize",), margin=2.0))
    assert started == []
    assert (trial_folder(run_copy) / "pretrain_0" / "model.keras").exists()


def test_models_load_without_custom_objects(finished):
    trial = trial_folder(finished[0])
    with np.load(trial / "scores.npz") as scores:
        known_scores = scores["dr"]
    test = Trial(tiny(finished[0]), 0).test
    model = load_model(trial / "optimize" / "model.keras")
    np.testing.assert_allclose(model.score(test.image), known_scores, atol=1e-7)


def test_scratch_start_and_other_options_run(tmp_path):
    options = {
        "init": "scratch",
        "prototype_mode": "inference",
        "prototype_gradient": False,
        "num_models": 3,
        "topology_norm": "literal",
        "control": False,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "decoupled_weight_decay": True,
        "augment": "on",
        "epochs": 1,
        "train_images_per_class": 20,
        "precision": "mixed_bfloat16",
        "tensorboard": False,
        "trials": (3, 4),
    }
    table = run_experiment(tiny(tmp_path, **options))
    assert "trials 3, 4 (n = 2)" in table
    assert "control" not in table
    assert " ± " in table
    assert not (trial_folder(tmp_path).parent / "trial_3" / "tensorboard").exists()


def test_overview_draws_the_trial(finished, tmp_path):
    draw_overview(trial_folder(finished[0]), tmp_path / "overview.png")
    image = matplotlib.image.imread(tmp_path / "overview.png")
    assert image.shape[:2] == (462, 1100)
    # Digits are grey; the lines of the two histograms are not.
    pixels = 255 * image[..., :3].reshape(-1, 3)
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert np.abs(pixels - colour).sum(axis=1).min() < 30
    with pytest.raises(PmalError, match=r"without .*result\.json"):
        draw_overview(tmp_path, tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


SERVE_ALONE = """
import sys
sys.modules["pmal_tf"] = sys.modules["keras"] = sys.modules["tf_keras"] = None
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
model = tf.saved_model.load(folder)
images = tf.constant(np.load(inputs), tf.float32)
answers = model.signatures["serving_default"](images=images)
np.savez(outputs, **{name: value.numpy() for name, value in answers.items()})
"""


def test_export_answers_alike_without_pmal_tf_and_keras(finished, tmp_path):
    folder = finished[0]
    np.save(tmp_path / "images.npy", Trial(tiny(folder), 0).test.image)
    export = folder / "saved_models" / "tiny" / "trial_0" / "1"
    arguments = [export, tmp_path / "images.npy", tmp_path / "answers.npz"]
    subprocess.run(
        [sys.executable, "-c", SERVE_ALONE, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    with (
        np.load(tmp_path / "answers.npz") as answers,
        np.load(trial_folder(folder) / "scores.npz") as scores,
    ):
        np.testing.assert_allclose(answers["unknown_score"], scores["dr"], atol=1e-5)
        np.testing.assert_allclose(
            1.0 - answers["probabilities"].max(axis=1), scores["pr"], atol=1e-5
        )
        calibration = trial_folder(folder) / "calibration.json"
        rules = json.loads(calibration.read_text())["rules"]
        rejected = answers["is_unknown"][scores["is_unknown"]].mean()
        assert rejected == pytest.approx(rules["dr"]["unknown_rejected"], abs=0.01)


def command(arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "pmal_tf.run", *arguments],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )


def test_command_line_skips_a_finished_run_from_its_own_flags(run_copy):
    # The record of a run is a flagfile: from any folder it finds the same run.
    flags = trial_folder(run_copy) / "flags.txt"
    moved = flags.read_text().replace("finished0", "elsewhere")
    (run_copy / "again.flags").write_text(moved)
    arguments = [
        "--flagfile=again.flags",
        f"--workdir={run_copy / 'runs'}",
        f"--export_dir={run_copy / 'saved_models'}",
    ]
    answer = command(arguments, run_copy)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("skipped") == len(STAGES)
    assert "| PMAL " in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset=cifar11"], "Error: `dataset` must be one of digits, mnist"),
        (["--datset=mnist"], "Error: Unknown command line flag 'datset'"),
        (["--protocol=arpl2"], "Error: `protocol` must be one of"),
        (["--trials=0,x"], "Error: `trials` must list values of type int"),
        (["--epsilon=0"], "Error: `epsilon` must lie in (0, 1]"),
        (["--prototypes_per_class=0"], "Error: `prototypes_per_class` must lie in"),
        (["--num_models=1"], "Error: `num_models` must lie in [2, inf)"),
        (["--flagfile=absent.flags"], "Error: `--flagfile` must name a readable file"),
        (["train"], "Unexpected arguments: train"),
    ],
)
def test_mistakes_on_the_command_line_are_sentences(tmp_path, arguments, sentence):
    answer = command(arguments, tmp_path)
    assert answer.returncode == 1
    assert sentence in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


def test_missing_dataset_is_a_sentence_on_the_command_line(tmp_path):
    answer = command(["--dataset=mnist", f"--data_dir={tmp_path}"], tmp_path)
    assert answer.returncode == 1
    assert "pmal_tf.data.prepare --dataset=mnist" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_stages_of_the_plan_are_those_of_the_flag():
    kinds = {stage.kind for stage in experiment.plan(Config(control=True))}
    assert kinds == set(Config().stages)
