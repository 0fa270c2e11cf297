"""The training loop: equal to Keras's, repeatable, resumable, and stopped by NaN."""

import dataclasses
import json
import logging
import re
import signal

import keras
import numpy as np
import pytest
from tiny_classifier import tiny_classifier, tiny_pipeline

from pmal_tf.runtime import signals
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError
from pmal_tf.training import checkpoints, fit
from pmal_tf.training.callbacks import drop_records
from pmal_tf.training.checkpoints import (
    Checkpoints,
    list_checkpoints,
    restore_newest,
    save_checkpoint,
)
from pmal_tf.training.fit import StageRecords, fit_classifier
from pmal_tf.training.loop import seed_dropout
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.trainable import SoftmaxModel

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=3e-3, schedule="cosine")


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline(20, augment=True)


def new_classifier(dropout=0.2):
    keras.utils.set_random_seed(3)
    return tiny_classifier(dropout)


def new_model(**options):
    """A model as `fit` makes it ready, without training."""
    keras.utils.set_random_seed(3)
    model = SoftmaxModel(tiny_classifier(**options))
    model.compile(optimizer=RECIPE.build_optimizer(2))
    model.build_optimizers()
    return model


def records_in(folder, **options):
    folder.mkdir(exist_ok=True)
    return StageRecords(
        stage="pretrain_0",
        folder=folder / "pretrain_0",
        metrics=folder / "metrics.jsonl",
        tensorboard=None,
        **options,
    )


@pytest.fixture(scope="module")
def uninterrupted(pipeline, tmp_path_factory):
    """A classifier trained by `RECIPE` with seed 1, and the records of that."""
    classifier = new_classifier()
    records = records_in(tmp_path_factory.mktemp("whole"))
    fit_classifier(classifier, pipeline, RECIPE, seed=1, records=records)
    return classifier, records


def assert_same_weights(first, second):
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_loop_takes_the_steps_that_fit_takes(pipeline):
    ours, theirs = new_classifier(dropout=0.0), new_classifier(dropout=0.0)
    recipe = Recipe(epochs=2, batch_size=8, schedule="constant")
    fit_classifier(ours, pipeline, recipe, seed=1)
    theirs.compile(
        optimizer=recipe.build_optimizer(pipeline.steps_per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    theirs.fit(
        pipeline.batches(0, 2).map(lambda batch, label: (batch["image"], label)),
        epochs=2,
        steps_per_epoch=pipeline.steps_per_epoch,
        verbose=0,
        shuffle=False,
    )
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_another_seed_gives_other_weights(pipeline, uninterrupted):
    """By dropout; that the same seed gives the same is seen where runs go on."""
    other = new_classifier()
    fit_classifier(other, pipeline, RECIPE, seed=2)
    assert not np.array_equal(uninterrupted[0].weights[0], other.weights[0])


def test_dropout_differs_by_step_and_by_layer():
    model = new_classifier()
    states = {}
    for step in (0, 1):
        seed_dropout(model, 1, step)
        states[step] = [
            tuple(variable.numpy().tolist())
            for variable in model.variables
            if "seed" in variable.path
        ]
    assert len(states[0]) == 2
    assert len({*states[0], *states[1]}) == 4


@pytest.mark.parametrize(("jit", "steps"), [("off", 3), ("on", 2)])
def test_steps_per_execution_and_xla_change_nothing_but_speed(
    pipeline, tmp_path, jit, steps
):
    # XLA draws other dropout masks, and Adam makes much of a last bit.
    dropout = 0.2 if jit == "off" else 0.0
    plain, other = new_classifier(dropout), new_classifier(dropout)
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.01)
    fit_classifier(plain, pipeline, recipe, seed=1)
    seen = []
    recipe = dataclasses.replace(recipe, jit=jit, steps_per_execution=steps)
    with pytest.MonkeyPatch.context() as patch:
        record = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(batch)
        )
        patch.setattr("pmal_tf.training.fit._callbacks", lambda *_: [record])
        fit_classifier(other, pipeline, recipe, seed=1, records=records_in(tmp_path))
    # Two steps an epoch, so three are never taken at once.
    assert seen == [1] * 4
    tolerance = 0.0 if jit == "off" else 1e-5
    for one, two in zip(plain.weights, other.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance)


@pytest.fixture
def every_step(monkeypatch):
    """Checkpoints after every step; records that say so."""
    monkeypatch.setattr(checkpoints, "_LEAST_SECONDS", 0.0)
    return lambda folder: records_in(folder, checkpoint_minutes=1e-9)


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def killed_and_resumed(pipeline, recipe, records, step, monkeypatch):
    """A classifier whose training died after a step's checkpoint, and went on."""
    save = checkpoints.save_checkpoint

    def save_and_die(model, folder, saved):
        save(model, folder, saved)
        if saved == step:
            raise KilledError

    monkeypatch.setattr(checkpoints, "save_checkpoint", save_and_die)
    with pytest.raises(KilledError):
        fit_classifier(new_classifier(), pipeline, recipe, seed=1, records=records)
    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    resumed = new_classifier()
    fit_classifier(resumed, pipeline, recipe, seed=1, records=records)
    return resumed


def test_weights_take_the_values_of_their_average_also_after_a_kill(
    pipeline, tmp_path, every_step, monkeypatch
):
    recipe = dataclasses.replace(
        RECIPE, optimizer="sgd", momentum=0.5, nesterov=True, weight_average=0.6
    )
    average = None

    class Average(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            nonlocal average
            weights = [np.array(v.numpy()) for v in self.model.trainable_variables]
            pairs = zip(average or weights, weights, strict=True)
            average = [0.6 * old + 0.4 * new for old, new in pairs]

    whole = new_classifier()
    monkeypatch.setattr(fit, "_callbacks", lambda *_: [Average()])
    records = records_in(tmp_path / "whole")
    fit_classifier(whole, pipeline, recipe, seed=1, records=records)
    monkeypatch.undo()
    for variable, expected in zip(whole.trainable_variables, average, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-6)
    # `undo` took the checkpoints after every step back as well.
    monkeypatch.setattr(checkpoints, "_LEAST_SECONDS", 0.0)
    records = every_step(tmp_path / "killed")
    resumed = killed_and_resumed(pipeline, recipe, records, 5, monkeypatch)
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize("step", [2, 5])
def test_killed_training_goes_on_as_if_nothing_had_happened(
    pipeline, tmp_path, every_step, uninterrupted, monkeypatch, step
):
    """At the end of an epoch of two steps, and within one."""
    whole, whole_records = uninterrupted
    records = every_step(tmp_path)
    resumed = killed_and_resumed(pipeline, RECIPE, records, step, monkeypatch)
    assert_same_weights(whole, resumed)
    # Losses and accuracies of epochs that were cut in two are those of whole ones.
    assert kept_metrics(records) == kept_metrics(whole_records)


def kept_metrics(records):
    lines = [json.loads(line) for line in records.metrics.read_text().splitlines()]
    times = {"seconds", "images_per_second"}
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def test_checkpoint_holds_the_loss_scale_of_half_precision(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = [new_model() for _ in range(2)]
    finally:
        keras.config.set_dtype_policy(before)
    saved, loaded = (model.optimizer for model in models)
    saved.dynamic_scale.assign(8.0)
    saved.inner_optimizer.iterations.assign(7)
    save_checkpoint(models[0], tmp_path, 7)
    assert restore_newest(models[1], tmp_path) == 7
    assert float(loaded.dynamic_scale) == 8.0
    assert int(loaded.inner_optimizer.iterations) == 7


def changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # In the numbers of a variable.
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        changed,
    ],
    ids=["cut", "gone", "changed"],
)
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage):
    model = new_model()
    for step in (3, 4, 5):
        model.weights[0].assign(np.full(model.weights[0].shape, step))
        save_checkpoint(model, tmp_path, step)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step_000000005.npz", "step_000000004.npz"]
    newest = list_checkpoints(tmp_path)[0]
    damage(newest)
    with caplog.at_level(logging.INFO, logger="absl"):
        assert restore_newest(model, tmp_path) == 4
    assert f"{newest} is damaged" in caplog.text
    assert (model.weights[0].numpy() == 4).all()
    assert not newest.exists()


def test_checkpoint_of_another_network_is_an_error_and_kept(tmp_path):
    save_checkpoint(new_model(), tmp_path, 3)
    with pytest.raises(PmalError, match=r"step_0+3\.npz, with .* shapes\. Remove it"):
        restore_newest(new_model(filters=5), tmp_path)
    assert len(list_checkpoints(tmp_path)) == 1


def test_signal_saves_and_leaves_after_the_step(
    pipeline, tmp_path, uninterrupted, caplog
):
    records = records_in(tmp_path)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    original = Checkpoints.on_train_batch_end

    def signalled(self, batch, logs=None):
        if self._epoch == 1 and batch == 0:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, logs)

    signals.leave_on_signals()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "on_train_batch_end", signalled)
            model = new_classifier()
            with pytest.raises(signals.Interrupted) as caught:
                fit_classifier(model, pipeline, RECIPE, seed=1, records=records)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert "epoch 2, step 1 of 2" in str(caught.value)
    assert caught.value.exit_status == 128 + signal.SIGTERM
    resumed = new_classifier()
    with caplog.at_level(logging.INFO, logger="absl"):
        fit_classifier(resumed, pipeline, RECIPE, seed=1, records=records)
    assert "Going on after step 3: of epoch 2 of 4, 1 of 2 steps are" in caplog.text
    assert_same_weights(uninterrupted[0], resumed)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    pipeline, tmp_path, every_step
):
    broken = dataclasses.replace(RECIPE, learning_rate=1e30)
    records = every_step(tmp_path)
    with pytest.raises(TrainingDivergedError) as caught:
        fit_classifier(new_classifier(), pipeline, broken, seed=1, records=records)
    assert "stage pretrain_0" in str(caught.value)
    assert re.search("epoch 1, step [12] of 2", str(caught.value))
    (kept,) = list_checkpoints(records.folder)
    assert f"kept at {kept}" in str(caught.value)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = new_model()
    model.weights[0].assign(np.full(model.weights[0].shape, np.nan))
    with pytest.raises(TrainingDivergedError, match="conv_1"):
        save_checkpoint(model, tmp_path, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_with_a_gradient_that_is_not_finite_is_named(pipeline, steps):
    # The loss of a step is finite, and the weights it leaves are not: the next loss
    # would tell, a step too late, or there is none.
    recipe = Recipe(
        epochs=1,
        batch_size=8,
        learning_rate=1e39,
        schedule="constant",
        steps_per_execution=steps,
    )
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 1 of 2"):
        fit_classifier(new_classifier(), pipeline, recipe, seed=1)


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"stage": s, "epoch": e} for s in ("a", "b") for e in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"stage": "b", "epo')
    drop_records(path, "b", first_epoch=1)
    left = [json.loads(line) for line in path.read_text().splitlines()]
    assert left == lines[:4]
