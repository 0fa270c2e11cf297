"""A whole experiment on the digits: every stage, file and number it leaves."""

import json

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics.pairwise import cosine_distances
from tiny_run import STAGES, STAGES_WITHOUT_CONTROL, tiny, trial_folder

from pmal_tf.backbones.build import load_model
from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.experiment import open_trial, run_experiment, workflow_of


def test_run_folder_explains_itself(finished):
    trial = trial_folder(finished[0])
    expected = {
        *("flags.txt", "config.json", "environment.json", "data.json"),
        *(f"{stage}/done.json" for stage in STAGES),
        *("pretrain_0/model.keras", "pretrain_1/model.keras"),
        *("optimize/model.keras", "control/model.keras"),
        *("mining/embedding_0.npy", "mining/embedding_1.npy"),
        *("mining/robustness.npz", "mining/prototypes.npz", "mining/report.json"),
        *("mining/sheets.npz", "mining/sheets/0_2.png", "mining/sheets/1_3.png"),
        *("mining/sheets/2_4.png", "mining/sheets/3_5.png", "mining/sheets/4_8.png"),
        "mining/sheets/5_9.png",
        "mining/topology.npz",
        *("scores.npz", "scores_softmax.npz", "scores_control.npz"),
        *("result.json", "calibration.json", "metrics.jsonl"),
        *("prototype_embeddings.npz", "statistics.npz"),
    }
    files = {
        str(path.relative_to(trial)) for path in trial.rglob("*") if path.is_file()
    }
    events = {name for name in files if name.startswith("tensorboard/")}
    assert files - events == expected
    assert {name.split("/")[1] for name in events} == {
        *("pretrain_0", "pretrain_1", "mining", "optimize", "control"),
        *("projector", "hparams"),
    }


def test_every_class_has_a_sheet_in_tensorboard(finished):
    folder = trial_folder(finished[0]) / "tensorboard" / "mining"
    (path,) = folder.glob("events.*")
    images = {
        value.tag: value.tensor.string_val
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert set(images) == {f"quality/{name}" for name in "234589"}
    width, height, encoded = images["quality/2"]
    png = trial_folder(finished[0]) / "mining" / "sheets" / "0_2.png"
    sheet = (matplotlib.image.imread(png) * 255).round().astype(np.uint8)[..., :3]
    assert (int(height), int(width)) == sheet.shape[:2]
    np.testing.assert_array_equal(tf.io.decode_png(encoded, channels=3), sheet)


@pytest.mark.usefixtures("untrained")
def test_a_baseline_of_the_robustness_trains_the_model_it_needs(tmp_path, started):
    config = tiny(
        tmp_path,
        quality="mc_dropout",
        diversity="kmeans",
        topology_anchors=64,
        embedding_precision="mixed_bfloat16",
        epochs=1,
        train_images_per_class=20,
        stages=("pretrain", "mine"),
        compare=("softmax",),
    )
    # Robustness first: a baseline added later leaves its models as they are.
    plain = config.changed(quality="robustness")
    assert run_experiment(plain) == "No trial is evaluated yet.\n"
    assert set(started) == {*STAGES} - {"optimize", "control", "evaluate", "export"}
    started.clear()
    run_experiment(config)
    baseline = {"pretrain_mc_dropout", "embedding_mc_dropout"}
    assert set(started) == {*baseline, "mining"}
    started.clear()
    run_experiment(config)
    assert not started
    trial = trial_folder(tmp_path)
    assert (trial / "pretrain_mc_dropout" / "model.keras").exists()
    with np.load(trial / "mining" / "robustness.npz") as stored:
        assert stored["exponent"].shape == stored["standard_error"].shape == (120,)
        assert (stored["standard_error"] > 0).all()
        variance = stored["quality_exponent"]
        assert ((variance >= 0) & (variance <= 0.25)).all()
        assert len(np.unique(variance)) > 100
        # The same head on the same embeddings.
        kernel, predicted = stored["kernel_0"], stored["predicted_0"]
    embedding = np.load(trial / "mining" / "embedding_0.npy", mmap_mode="r")
    assert embedding.dtype == np.float32
    assert (embedding @ kernel).shape == (120, 6)
    assert set(predicted.tolist()) <= set(range(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": "none", "diversity": "none"}, "diversity=random"),
        ({"topology_anchors": 11}, "12 in all.*topology_anchors=11"),
    ],
)
def test_mining_that_cannot_be_is_refused_before_any_work(
    tmp_path, started, settings, message
):
    with pytest.raises(PmalError, match=message):
        run_experiment(tiny(tmp_path, **settings))
    assert not started
    assert not (tmp_path / "runs").exists()


def test_results_are_complete_and_in_range(finished):
    result = json.loads((trial_folder(finished[0]) / "result.json").read_text())
    assert result["protocol"] == "neal"
    assert result["known"] == ["2", "3", "4", "5", "8", "9"]
    assert result["unknown"] == ["0", "1", "6", "7"]
    assert result["openness"] == pytest.approx(0.133975, abs=1e-6)
    assert set(result["models"]) == {"pmal", "softmax", "control"}
    rules = {"dr", "pr", "mls", "class_mean"}
    for metrics in result["models"].values():
        assert set(metrics) == {"acc", "macro_f1", *rules}
        for rule in rules:
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
    assert table.startswith((folder / "summary.md").read_text())
    exported = folder.parent.parent / "saved_models" / "tiny" / "trial_0" / "1"
    assert f"Exported {exported}: an image whose DR is above " in table
    assert "of known and" in table
    assert json.loads((folder / "summary.json").read_text())["models"]["pmal"]


@pytest.mark.slow
def test_same_seed_gives_bit_identical_scores(finished, tmp_path):
    stages = [stage for stage in STAGES_WITHOUT_CONTROL if stage != "export"]
    others = {"compare": ("softmax",), "tensorboard": False}
    run_experiment(tiny(tmp_path, stages=tuple(stages), **others))
    first, second = (
        (trial_folder(folder) / "scores.npz").read_bytes()
        for folder in (finished[0], tmp_path)
    )
    assert first == second


def test_every_model_is_what_its_name_says(finished):
    """Seeds differ by model; each score file is of its own model."""
    trial = trial_folder(finished[0])
    spaces = [np.load(trial / "mining" / f"embedding_{u}.npy") for u in (0, 1)]
    assert np.abs(spaces[0] - spaces[1]).max() > 0.01
    images = open_trial(tiny(finished[0]), 0).images
    train, test = images.train, images.test
    for stage, name in (
        ("pretrain_0", "scores_softmax"),
        ("control", "scores_control"),
    ):
        classifier = load_model(trial / stage / "model.keras")
        expected = classifier.predict(test.image, verbose=0).max(axis=1)
        network = embedding_and_logits(classifier)
        means = np.stack(
            [
                network.predict(train.image[train.label == k], verbose=0)["embedding"]
                .astype(np.float64)
                .mean(axis=0)
                for k in range(6)
            ]
        )
        with np.load(trial / f"{name}.npz") as scores:
            np.testing.assert_allclose(-scores["mls"], expected, atol=1e-5)
            # Its own classes' means are what its distances are measured to.
            to_means = cosine_distances(scores["embedding"], means)
            np.testing.assert_allclose(scores["distance"], to_means, atol=1e-5)
            np.testing.assert_allclose(scores["dr"], to_means.min(axis=1), atol=1e-5)
            np.testing.assert_allclose(scores["class_mean"], scores["dr"], rtol=1e-6)


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

    config = tiny(finished[0])
    workflow = workflow_of(config, open_trial(config, 0))
    for name, fit in (
        ("optimize", "pmal_tf.methods.pmal.optimize_stage.fit_pmal"),
        ("control", "pmal_tf.methods.classifier_stage.fit_classifier"),
    ):
        monkeypatch.setattr(fit, recorded(name))
        stage = workflow.stages[name]
        with pytest.raises(StopError):
            workflow._compute(stage, "another key")
    (order, dropout, weights), other = seen["optimize"], seen["control"]
    assert (order, dropout) == other[:2]
    path = trial_folder(finished[0]) / "pretrain_0" / "model.keras"
    start = load_model(path).get_weights()
    for one, two, three in zip(weights, other[2], start, strict=True):
        np.testing.assert_array_equal(one, three)
        np.testing.assert_array_equal(two, three)
    # The pre-training that made M^1 had an order of its own.
    assert order != open_trial(config, 0).pipeline("pretrain", 0).seed


@pytest.mark.usefixtures("untrained")
def test_other_seed_gives_other_weights_and_prototypes(tmp_path):
    found = []
    for seed in (0, 1):
        config = tiny(tmp_path, seed=seed, stages=("pretrain", "mine"))
        run_experiment(config.changed(experiment=f"seed_{seed}"))
        trial = tmp_path / "runs" / f"seed_{seed}" / "trial_0"
        model = load_model(trial / "pretrain_0" / "model.keras")
        prototypes = np.load(trial / "mining" / "prototypes.npz")["example_id"]
        images = np.load(trial / "mining" / "robustness.npz")["example_id"]
        kernels = [w.numpy() for w in model.trainable_weights if w.ndim > 1]
        found.append((kernels, {*prototypes}, images.tolist()))
    (one, mined, images), (other, mined_anew, same_images) = found
    assert same_images == images
    for ours, theirs in zip(one, other, strict=True):
        assert not np.allclose(ours, theirs)
    assert mined != mined_anew


def test_models_load_without_custom_objects(finished):
    trial = trial_folder(finished[0])
    with np.load(trial / "scores.npz") as scores:
        known_scores = scores["dr"]
    test = open_trial(tiny(finished[0]), 0).images.test
    model = load_model(trial / "optimize" / "model.keras")
    np.testing.assert_allclose(model.score(test.image), known_scores, atol=1e-7)


@pytest.mark.usefixtures("untrained")
def test_scratch_start_and_other_options_run(tmp_path):
    options = {
        "init": "scratch",
        "prototype_mode": "inference",
        "prototype_gradient": False,
        "num_models": 3,
        "topology": "literal",
        "compare": (),
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "decoupled_weight_decay": True,
        "augment": "on",
        "epochs": 1,
        "train_images_per_class": 20,
        "precision": "mixed_bfloat16",
        "tensorboard": False,
        "trials": (3,),
        "stages": ("pretrain", "mine", "optimize", "evaluate"),
    }
    table = run_experiment(tiny(tmp_path, **options))
    assert "trials 3 (n = 1)" in table
    assert "control" not in table
    assert not (tmp_path / "saved_models").exists()
    assert not (trial_folder(tmp_path).parent / "trial_3" / "tensorboard").exists()


def test_lite_models_are_of_float32(tmp_path):
    config = tiny(tmp_path, tflite=("int8",), precision="mixed_bfloat16")
    with pytest.raises(PmalError, match=r"float32 only\. Received: tflite=int8"):
        run_experiment(config)
    assert not list(tmp_path.iterdir())
