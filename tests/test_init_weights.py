"""A run that starts from a model file: what it takes, and when it needs the file."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_run import tiny, trial_folder

from pmal_tf.api import load_model
from pmal_tf.errors import PmalError
from pmal_tf.experiment import run_experiment
from pmal_tf.stages import pretrain
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, checksum

layers = keras.layers


def write_start(path, *, size=8, seed=0):
    """Saves a model with 5 classes of its own and z with 7 entries."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(7, 3, strides=2, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    keras.Model(image, x, name="start").save(path)
    return path


@pytest.fixture
def start(tmp_path):
    return write_start(tmp_path / "start.keras")


def config_of(folder, start, **changes):
    options = {
        "init_weights": str(start),
        "epochs": 1,
        "train_images_per_class": 20,
        "control": False,
        "tensorboard": False,
        "stages": ("pretrain",),
        **changes,
    }
    return tiny(folder, **options)


@pytest.fixture(scope="module")
def finished_start(tmp_path_factory):
    """Two classifiers that started from `start.keras`."""
    folder = tmp_path_factory.mktemp("init_weights")
    start = write_start(folder / "start.keras")
    run_experiment(config_of(folder, start, learning_rate=1e-9, weight_decay=0.0))
    return folder


def marker_of(folder, stage):
    return Marker.read(trial_folder(folder) / stage, "pretrain")


def test_training_starts_from_the_file_with_a_head_of_its_own(finished_start):
    old = load_model(finished_start / "start.keras")
    heads = []
    for stage in ("pretrain_0", "pretrain_1"):
        classifier = load_model(trial_folder(finished_start) / stage / "model.keras")
        *trunk, kernel, bias = classifier.trainable_weights
        assert (kernel.shape, bias.shape) == ((7, 6), (6,))
        assert len(trunk) == 3  # A kernel, gamma and beta.
        for one, other in zip(trunk, old.trainable_weights, strict=False):
            np.testing.assert_allclose(one, other, atol=1e-6)
        # Training did take place.
        statistics = classifier.non_trainable_weights[0].numpy()
        assert np.abs(statistics - old.non_trainable_weights[0].numpy()).max() > 1e-4
        heads.append(kernel.numpy())
        facts = marker_of(finished_start, stage).facts
        assert facts["init_weights"] == checksum(finished_start / "start.keras")
    assert np.abs(heads[0] - heads[1]).max() > 0.1


def test_every_stage_runs_on_such_a_network(tmp_path, start, started):
    config = config_of(
        tmp_path,
        start,
        quality="mc_dropout",
        init="scratch",
        precision="mixed_bfloat16",
        embedding_precision="float32",
        stages=("pretrain", "mine", "optimize", "evaluate", "export"),
    )
    assert "| PMAL " in run_experiment(config)
    assert "pretrain_mc_dropout" in started
    rival = load_model(trial_folder(tmp_path) / "pretrain_mc_dropout" / "model.keras")
    assert rival.get_layer("embedding_dropout").rate == 0.5
    model = load_model(trial_folder(tmp_path) / "optimize" / "model.keras")
    assert model.network.get_layer("conv").kernel.shape == (3, 3, 3, 7)
    started.clear()
    start.unlink()  # What is finished needs the file no more.
    assert "| PMAL " in run_experiment(config)
    assert not started
    with pytest.raises(
        PmalError, match=r"Received: .*start\.keras, which is not there"
    ):
        run_experiment(
            dataclasses.replace(config, overwrite=True, stages=("optimize",))
        )
    with pytest.raises(
        PmalError, match=r"Received: .*start\.keras, which is not there"
    ):
        run_experiment(dataclasses.replace(config, overwrite=True, stages=("mine",)))
    assert not started


def test_a_file_that_has_changed_is_told(tmp_path, start, started):
    config = config_of(tmp_path, start)
    run_experiment(config)
    old = start.read_bytes()
    write_start(start, seed=1)
    started.clear()
    message = r"trial_0 started from\. Received: .*changed since: SHA-256 \w{12}\.\.\."
    for stages in (("pretrain",), ("mine",)):
        with pytest.raises(PmalError, match=message):
            run_experiment(dataclasses.replace(config, stages=stages))
    assert not started
    start.write_bytes(old)
    run_experiment(config)
    assert not started
    write_start(start, seed=1)
    run_experiment(dataclasses.replace(config, overwrite=True))
    assert started == ["pretrain_0", "pretrain_1"]
    facts = marker_of(tmp_path, "pretrain_1").facts
    assert facts["init_weights"] == checksum(start)


def test_models_of_an_older_file_are_made_anew_with_the_others(
    tmp_path, start, started
):
    """As where training anew from another file was cut short between two models."""
    config = config_of(tmp_path, start)
    run_experiment(config)
    marker = marker_of(tmp_path, "pretrain_1")
    older = {**marker.facts, "init_weights": "0" * 64}
    dataclasses.replace(marker, facts=older).write(
        trial_folder(tmp_path) / "pretrain_1"
    )
    started.clear()
    run_experiment(config)
    assert started == ["pretrain_1"]


def test_checkpoints_are_of_one_file(tmp_path, start, monkeypatch):
    class StopError(Exception):
        pass

    def fit(*_arguments, records, **_options):
        assert records.identity["init_weights"] == checksum(start)
        assert records.identity["epochs"] == 1
        raise StopError

    monkeypatch.setattr(pretrain, "fit_classifier", fit)
    with pytest.raises(StopError):
        run_experiment(config_of(tmp_path, start))


def not_a_model(path):
    path.write_text("weights")


def a_backbone_without_head(path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, layers.GlobalAveragePooling2D()(image)).save(path)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda path: path.unlink(), {}, r"which is not there\. Name another"),
        (
            not_a_model,
            {},
            r"complete `\.keras` archive.*Name another file with --init_w",
        ),
        (a_backbone_without_head, {}, "must end in a linear"),
        (lambda path: path.unlink(), {"init": "scratch"}, "is not there"),
        (lambda _path: None, {"image_size": 16}, r"16 x 16 pixels.*for 8 x 8"),
    ],
)
def test_what_cannot_be_started_from_is_told_before_any_work(
    tmp_path, start, started, monkeypatch, make, changes, message
):
    make(start)
    monkeypatch.setattr(Trial, "read_images", lambda _: pytest.fail("work has begun"))
    with pytest.raises(PmalError, match=message):
        run_experiment(config_of(tmp_path, start, **changes))
    assert not started
    assert not (tmp_path / "runs").exists()


def test_a_size_that_only_the_images_tell_is_told_before_training(tmp_path, started):
    start = write_start(tmp_path / "start.keras", size=16)
    with pytest.raises(
        PmalError, match=r"8 x 8 pixels.*for 16 x 16\. Set --image_size"
    ):
        run_experiment(config_of(tmp_path, start))
    assert not started
    run_experiment(config_of(tmp_path / "other", start, image_size=16))
    assert started == ["pretrain_0", "pretrain_1"]
