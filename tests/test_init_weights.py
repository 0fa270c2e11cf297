"""A run that starts from a model file: what it takes, and when it needs the file."""

import keras
import numpy as np
import pytest
from tiny_run import tiny, trial_folder

from pmal_tf.backbones.build import load_model
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import Marker, checksum
from pmal_tf.workflow.engine import Workflow
from pmal_tf.workflow.experiment import run_experiment

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
        "compare": (),
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
    return Marker.read(trial_folder(folder) / stage)


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
        read = marker_of(finished_start, stage).inputs
        assert read["init_weights"] == checksum(finished_start / "start.keras")
    assert np.abs(heads[0] - heads[1]).max() > 0.1


@pytest.mark.usefixtures("untrained")
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
    dropped = load_model(trial_folder(tmp_path) / "pretrain_mc_dropout" / "model.keras")
    assert dropped.get_layer("embedding_dropout").rate == 0.5
    model = load_model(trial_folder(tmp_path) / "optimize" / "model.keras")
    assert model.network.get_layer("conv").kernel.shape == (3, 3, 3, 7)
    started.clear()
    start.unlink()  # What is finished needs the file no more.
    assert "| PMAL " in run_experiment(config)
    assert not started
    for stage in ("optimize", "mine"):
        anew = config.changed(overwrite=True, stages=(stage,))
        with pytest.raises(PmalError, match=r"Received: .*start\.keras, which is not"):
            run_experiment(anew)
    assert not started


@pytest.mark.usefixtures("untrained")
def test_a_file_that_has_changed_is_another_start(tmp_path, start, started, caplog):
    config = config_of(tmp_path, start)
    run_experiment(config)
    old = start.read_bytes()
    write_start(start, seed=1)
    started.clear()
    with caplog.at_level("INFO", logger="absl"):
        run_experiment(config)
    assert started == ["pretrain_0", "pretrain_1"]
    assert "pretrain_0: made anew, since init_weights" in caplog.text
    assert marker_of(tmp_path, "pretrain_1").inputs["init_weights"] == checksum(start)
    started.clear()
    start.write_bytes(old)
    run_experiment(config)  # And back: nothing was lost.
    assert not started


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
    monkeypatch.setattr(Workflow, "run", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(PmalError, match=message):
        run_experiment(config_of(tmp_path, start, **changes))
    assert not started
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("untrained")
def test_a_size_that_only_the_images_tell_is_told_before_training(tmp_path, started):
    start = write_start(tmp_path / "start.keras", size=16)
    with pytest.raises(
        PmalError, match=r"8 x 8 pixels.*for 16 x 16\. Set --image_size"
    ):
        run_experiment(config_of(tmp_path, start))
    assert not started
    run_experiment(config_of(tmp_path / "other", start, image_size=16))
    assert started == ["pretrain_0", "pretrain_1"]
