"""The training loop: equal to Keras's, repeatable, resumable, and stopped by NaN."""

import dataclasses
import json
import logging
import re
import signal
from pathlib import Path

import keras
import numpy as np
import pytest

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.runtime import signals as interruption
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError
from pmal_tf.training import checkpoints
from pmal_tf.training.callbacks import drop_records
from pmal_tf.training.checkpoints import (
    Checkpoints,
    list_checkpoints,
    save_checkpoint,
)
from pmal_tf.training.fit import StageRecords, fit_classifier
from pmal_tf.training.loop import seed_dropout
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.softmax_model import SoftmaxModel

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=3e-3, schedule="cosine")


@pytest.fixture
def pipeline(rng):
    return TrainingPipeline(
        image=rng.integers(0, 256, size=(20, 8, 8, 3)).astype(np.uint8),
        label=np.arange(20) % 3,
        example_id=np.arange(20).astype(str),
        batch_size=8,
        seed=5,
        augment=True,
    )


def new_classifier(dropout=0.2):
    keras.utils.set_random_seed(3)
    return build_classifier("oscri", (8, 8, 3), 3, width=0.05, dropout=dropout)


def records_in(folder):
    folder = Path(folder)
    return StageRecords(
        stage="pretrain_0",
        folder=folder / "pretrain_0",
        metrics=folder / "metrics.jsonl",
        tensorboard=None,
    )


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


def test_same_seed_gives_the_same_weights_and_another_does_not(pipeline):
    first, second, third = new_classifier(), new_classifier(), new_classifier()
    fit_classifier(first, pipeline, RECIPE, seed=1)
    fit_classifier(second, pipeline, RECIPE, seed=1)
    fit_classifier(third, pipeline, RECIPE, seed=2)  # Other dropout.
    assert_same_weights(first, second)
    assert not np.array_equal(first.weights[0], third.weights[0])


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
    assert len(states[0]) == 3
    assert len({*states[0], *states[1]}) == 6


@pytest.mark.parametrize(("jit", "steps"), [("off", 3), ("on", 1), ("on", 2)])
def test_steps_per_execution_and_xla_change_nothing_but_speed(pipeline, jit, steps):
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
        fit_classifier(other, pipeline, recipe, seed=1, records=records_in("unused"))
    # Two steps an epoch, so three are never taken at once.
    assert seen == ([1] * 4 if steps > 1 else [0, 1] * 4)
    tolerance = 0.0 if jit == "off" else 1e-5
    for one, two in zip(plain.weights, other.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance)


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


@pytest.fixture
def every_step(monkeypatch):
    """Checkpoints after every step."""
    make = Checkpoints.__init__

    def often(self, folder, identity, *, steps_per_epoch, minutes):
        options = {"steps_per_epoch": steps_per_epoch, "least_seconds": 0.0}
        make(self, folder, identity, minutes=1e-9, **options)

    monkeypatch.setattr(Checkpoints, "__init__", often)


@pytest.fixture
def killed_after(monkeypatch):
    """Lets `Checkpoints` die after having saved a step."""

    def arrange(step):
        original = checkpoints.save_checkpoint

        def save(model, folder, saved, identity):
            original(model, folder, saved, identity)
            if saved == step:
                raise KilledError

        monkeypatch.setattr(checkpoints, "save_checkpoint", save)
        return lambda: monkeypatch.setattr(checkpoints, "save_checkpoint", original)

    return arrange


@pytest.mark.parametrize(
    ("step", "optimizer"), [(1, "adam"), (2, "adam"), (5, "adam"), (5, "sgd")]
)
def test_killed_training_goes_on_as_if_nothing_had_happened(
    pipeline, tmp_path, every_step, killed_after, step, optimizer
):
    """At the end of an epoch of two steps, and within one."""
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, weight_decay=0.01)
    uninterrupted, killed, resumed = (new_classifier() for _ in range(3))
    whole = records_in(tmp_path / "whole")
    fit_classifier(uninterrupted, pipeline, recipe, seed=1, records=whole)
    alive = killed_after(step)
    records = records_in(tmp_path / "killed")
    with pytest.raises(KilledError):
        fit_classifier(killed, pipeline, recipe, seed=1, records=records)
    alive()
    fit_classifier(resumed, pipeline, recipe, seed=1, records=records)
    assert_same_weights(uninterrupted, resumed)
    # Losses and accuracies of epochs that were cut in two are those of whole ones.
    assert kept_metrics(records) == kept_metrics(whole)


def kept_metrics(records):
    lines = [json.loads(line) for line in records.metrics.read_text().splitlines()]
    times = {"seconds", "images_per_second"}
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def test_checkpoint_holds_the_loss_scale_of_half_precision(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = [SoftmaxModel(new_classifier()) for _ in range(2)]
        for model in models:
            model.compile(optimizer=RECIPE.build_optimizer(2))
            model.optimizer.build(model.trainable_variables)
    finally:
        keras.config.set_dtype_policy(before)
    saved, loaded = (model.optimizer for model in models)
    saved.dynamic_scale.assign(8.0)
    saved.inner_optimizer.iterations.assign(7)
    save_checkpoint(models[0], tmp_path, 7, {})
    assert checkpoints.restore_newest(models[1], tmp_path, {}) == 7
    assert float(loaded.dynamic_scale) == 8.0
    assert int(loaded.inner_optimizer.iterations) == 7


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    pipeline, tmp_path, every_step, killed_after, caplog, damage
):
    uninterrupted, killed, resumed = (new_classifier() for _ in range(3))
    fit_classifier(uninterrupted, pipeline, RECIPE, seed=1)
    alive = killed_after(5)
    records = records_in(tmp_path)
    with pytest.raises(KilledError):
        fit_classifier(killed, pipeline, RECIPE, seed=1, records=records)
    alive()
    newest, before = list_checkpoints(records.folder)
    assert (newest.name, before.name) == ("step_000000005.npz", "step_000000004.npz")
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-100])
    elif damage == "gone":
        newest.write_bytes(b"")
    else:
        spoil_one_number(newest)
    with caplog.at_level(logging.INFO, logger="absl"):
        fit_classifier(resumed, pipeline, RECIPE, seed=1, records=records)
    assert f"{newest} is damaged" in caplog.text
    assert "Going on after step 4: of epoch 3 of 4, 0 of 2 steps" in caplog.text
    assert_same_weights(uninterrupted, resumed)


def spoil_one_number(path):
    """Writes a sound archive with another number in it: only a checksum can tell."""
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["variable_0000"].flat[0] += 1.0
    with path.open("wb") as file:
        np.savez(file, **arrays)


def test_checkpoint_of_another_configuration_or_version_is_an_error(
    pipeline, tmp_path, every_step, killed_after, monkeypatch
):
    alive = killed_after(3)
    records = dataclasses.replace(records_in(tmp_path), identity={"width": 0.5})
    with pytest.raises(KilledError):
        fit_classifier(new_classifier(), pipeline, RECIPE, seed=1, records=records)
    alive()
    other = dataclasses.replace(records, identity={"width": 1.0})
    with pytest.raises(PmalError, match=r"width: 0.5 -> 1.0.*Remove it"):
        fit_classifier(new_classifier(), pipeline, RECIPE, seed=1, records=other)
    wider = build_classifier("oscri", (8, 8, 3), 3, width=0.1)
    with pytest.raises(PmalError, match="other shapes"):
        fit_classifier(wider, pipeline, RECIPE, seed=1, records=records)
    monkeypatch.setattr(checkpoints, "__version__", "99.0")
    with pytest.raises(PmalError, match=r"pmal_tf: '.*' -> '99.0'"):
        fit_classifier(new_classifier(), pipeline, RECIPE, seed=1, records=records)
    assert len(list_checkpoints(records.folder)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_leaves_after_the_step(pipeline, tmp_path, number):
    uninterrupted, stopped, resumed = (new_classifier() for _ in range(3))
    fit_classifier(uninterrupted, pipeline, RECIPE, seed=1)
    records = records_in(tmp_path)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    original = Checkpoints.on_train_batch_end

    def signalled(self, batch, logs=None):
        if self._epoch == 1 and batch == 0:
            signal.raise_signal(number)
        original(self, batch, logs)

    interruption.leave_on_signals()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "on_train_batch_end", signalled)
            with pytest.raises(interruption.Interrupted) as caught:
                fit_classifier(stopped, pipeline, RECIPE, seed=1, records=records)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert "epoch 2, step 1 of 2" in str(caught.value)
    assert caught.value.exit_status == 128 + number
    fit_classifier(resumed, pipeline, RECIPE, seed=1, records=records)
    assert_same_weights(uninterrupted, resumed)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    pipeline, tmp_path, every_step, monkeypatch
):
    records = records_in(tmp_path)
    fit_classifier(new_classifier(), pipeline, RECIPE, seed=1, records=records)
    kept = list_checkpoints(records.folder)
    broken = dataclasses.replace(RECIPE, epochs=6, learning_rate=1e30)
    with pytest.raises(TrainingDivergedError) as caught:
        fit_classifier(new_classifier(), pipeline, broken, seed=1, records=records)
    message = str(caught.value)
    assert "stage pretrain_0" in message
    assert re.search("epoch [56], step [12] of 2", message)
    assert str(list_checkpoints(records.folder)[0]) in message
    assert kept[0] in list_checkpoints(records.folder)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = SoftmaxModel(new_classifier())
    model.compile(optimizer=RECIPE.build_optimizer(2))
    model.optimizer.build(model.trainable_variables)
    model.weights[0].assign(np.full(model.weights[0].shape, np.nan))
    with pytest.raises(TrainingDivergedError, match="conv_1"):
        save_checkpoint(model, tmp_path, 3, {})
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
