"""Two replicas, on two logical devices of this machine, do what one does."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_classifier import tiny_classifier, tiny_pipeline

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.methods.pmal.mine_stages import embed
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.optimize_stage import fit_pmal
from pmal_tf.methods.pmal.prototypes import Prototypes, PrototypeSchedule
from pmal_tf.runtime import distribution
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.fit import fit_classifier
from pmal_tf.training.recipe import Recipe
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.experiment import run_experiment

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=3e-3, schedule="constant")


@pytest.fixture
def pipeline():
    return tiny_pipeline(28, augment=True)


@contextlib.contextmanager
def on(strategy, precision="float32"):
    """Runs what is inside as a run with a strategy would."""
    opened = distribution.open_strategy(strategy, worker_timeout_seconds=1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        with distribution.using(opened), opened.scope():
            keras.utils.set_random_seed(3)
            yield
    finally:
        keras.config.set_dtype_policy(before)


def furthest(one, other):
    pairs = zip(one, other, strict=True)
    return max(float(np.abs(np.subtract(a, b, dtype=float)).max()) for a, b in pairs)


@pytest.mark.parametrize("mode", ["joint", "inference", "bank"])
def test_pmal_training_is_that_of_one_device(pipeline, mode):
    """Five prototypes on two replicas: each is embedded once, by one of them."""
    selection = [np.array([0, 3]), np.array([1, 4]), np.array([2])]
    prototypes = Prototypes.from_selection(
        selection, pipeline.image, pipeline.example_id, np.ones(28)
    )
    kept = {}
    for strategy, count in (("default", 1), ("mirrored", 2)):
        with on(strategy, "float64"):
            assert distribution.replicas() == count
            network = embedding_and_logits(tiny_classifier(0.0))
            model = PMALModel(network, 2, prototype_mode=mode, margin=1.0)
            schedule = PrototypeSchedule.of_mode(mode, every=2, size=3)
            fit_pmal(model, pipeline, prototypes, RECIPE, seed=1, schedule=schedule)
            kept[strategy] = [*model.get_weights(), model.prototype_embeddings.numpy()]
    assert kept["default"][0].dtype == np.float64
    assert furthest(kept["default"], kept["mirrored"]) < 1e-12


def test_batch_norm_can_be_left_to_each_replica(pipeline):
    weights = []
    for synchronized in (True, False):
        with on("mirrored", "float64"):
            model = tiny_classifier(0.0)
            recipe = Recipe(**{**vars(RECIPE), "sync_batch_norm": synchronized})
            fit_classifier(model, pipeline, recipe, seed=1)
            weights.append(model.get_weights())
            norms = [layer for layer in model.layers if "norm_" in layer.name]
            assert not any(layer.synchronized for layer in norms)
    assert furthest(*weights) > 1e-6


def test_replicas_drop_other_units(pipeline):
    """Or two replicas with the same image would be one with a larger step."""
    with on("mirrored"):
        model = tiny_classifier(0.5)
        seen = []

        def masks():
            from pmal_tf.training.loop import seed_dropout

            seed_dropout(model, 1, 0)
            return model(tf.ones((2, 8, 8, 3)), training=True)

        strategy = distribution.current()
        run = tf.function(lambda: strategy.run(masks))
        seen = [value.numpy() for value in strategy.experimental_local_results(run())]
    assert not np.allclose(*seen)


@pytest.mark.parametrize("count", [1, 6, 11])
def test_every_image_is_embedded_once_whatever_their_number(pipeline, count):
    spaces = {}
    for strategy in ("default", "mirrored"):
        with on(strategy):
            spaces[strategy] = embed(tiny_classifier(0.0), pipeline.image[:count])
    one, two = (space.embedding for space in spaces.values())
    assert one.shape == two.shape == (count, one.shape[1])
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_one_host_needs_nobody(monkeypatch):
    for strategy in ("default", "mirrored"):
        with on(strategy):
            assert distribution.is_chief()
            assert not distribution.several_hosts()
            assert distribution.any_host([True, False]) == [True, False]
            distribution.wait_for_all_hosts()
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(PmalError, match="TF_CONFIG"):
        distribution.open_strategy("multi_worker", worker_timeout_seconds=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 15}, "batch_size=15 on 2 replicas"),
        ({"batch_size": 16, "jit": "on"}, "jit=on on 2 replicas"),
        ({"precision": "mixed_float16"}, "precision=mixed_float16 on 2 replicas"),
        ({"warmup_epochs": 600}, "warmup_epochs"),
    ],
)
def test_what_replicas_cannot_do_is_told_before_any_work(tmp_path, changes, message):
    with pytest.raises(PmalError, match=message):
        run_experiment(
            Config(workdir=str(tmp_path / "runs"), strategy="mirrored", **changes)
        )
    assert not (tmp_path / "runs").exists()


def test_loss_of_a_host_is_reported_and_other_errors_pass(monkeypatch):
    lost = tf.errors.UnavailableError(None, None, "Collective ops is aborted by: gone")
    wrong = tf.errors.InvalidArgumentError(None, None, "shapes do not fit")
    monkeypatch.setattr(distribution, "several_hosts", lambda: True)
    with pytest.raises(PmalError, match=r"another host was lost: .*gone.*same command"):
        with distribution.report_lost_hosts():
            raise lost
    with pytest.raises(tf.errors.InvalidArgumentError):
        with distribution.report_lost_hosts():
            raise wrong
    monkeypatch.setattr(distribution, "several_hosts", lambda: False)
    with pytest.raises(tf.errors.UnavailableError):
        with distribution.report_lost_hosts():
            raise lost
