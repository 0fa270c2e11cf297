"""The training loop: equal to Keras's, repeatable, resumable, and stopped by NaN."""

import dataclasses
import json
import logging

import keras
import numpy as np
import pytest

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.data.pipeline import TrainingPipeline, images_only
from pmal_tf.errors import TrainingDivergedError
from pmal_tf.training.callbacks import drop_records
from pmal_tf.training.checkpoints import (
    EpochCheckpoint,
    list_checkpoints,
    restore_newest,
)
from pmal_tf.training.fit import StageRecords, fit_classifier
from pmal_tf.training.loop import seed_dropout
from pmal_tf.training.recipe import Recipe

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


def new_classifier():
    keras.utils.set_random_seed(3)
    return build_classifier("oscri", (8, 8, 3), 3, width=0.05)


def records_in(folder):
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
    ours, theirs = new_classifier(), new_classifier()
    recipe = Recipe(epochs=1, batch_size=8, schedule="constant")
    fit_classifier(ours, pipeline, recipe, seed=1)
    theirs.compile(
        optimizer=recipe.build_optimizer(pipeline.steps_per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    seed_dropout(theirs, 1, epoch=0)
    theirs.fit(
        images_only(pipeline.batches(0, 1)),
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


def test_dropout_differs_by_epoch_and_by_layer():
    model = new_classifier()
    states = {}
    for epoch in (0, 1):
        seed_dropout(model, 1, epoch)
        states[epoch] = [
            tuple(variable.numpy().tolist())
            for variable in model.variables
            if "seed" in variable.path
        ]
    assert len(states[0]) == 3
    assert len({*states[0], *states[1]}) == 6


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def test_killed_training_goes_on_as_if_nothing_had_happened(
    pipeline, tmp_path, monkeypatch, caplog
):
    uninterrupted, killed, resumed = (new_classifier() for _ in range(3))
    fit_classifier(uninterrupted, pipeline, RECIPE, seed=1)

    records = records_in(tmp_path)
    monkeypatch.setattr(EpochCheckpoint.__init__, "__defaults__", (0.0,))
    original = EpochCheckpoint.on_epoch_end

    def killed_in_epoch_3(self, epoch, logs=None):
        original(self, epoch, logs)
        if epoch == 2:
            raise KilledError

    monkeypatch.setattr(EpochCheckpoint, "on_epoch_end", killed_in_epoch_3)
    with pytest.raises(KilledError):
        fit_classifier(killed, pipeline, RECIPE, seed=1, records=records)
    # The newest checkpoint is damaged: the one before serves, after epoch 2.
    newest, before = list_checkpoints(records.folder)
    assert before.name == "epoch_00002.weights.h5"
    newest.write_bytes(b"half a file")
    monkeypatch.setattr(EpochCheckpoint, "on_epoch_end", original)
    with caplog.at_level(logging.INFO, logger="absl"):
        fit_classifier(resumed, pipeline, RECIPE, seed=1, records=records)
    assert "Going on after epoch 2 of 4" in caplog.text

    assert_same_weights(uninterrupted, resumed)
    lines = [json.loads(line) for line in records.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]


def test_checkpoints_that_cannot_be_read_leave_no_trace(pipeline, tmp_path):
    untouched, model = new_classifier(), new_classifier()
    records = records_in(tmp_path)
    records.folder.mkdir()
    # Weights that fit and an optimiser that does not: reading fails after the weights.
    other = new_classifier()
    other.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.weights[0].assign(np.zeros(other.weights[0].shape))
    other.save_weights(records.folder / "epoch_00001.weights.h5")
    model.compile(optimizer=RECIPE.build_optimizer(2), loss="mse")
    assert restore_newest(model, records.folder) == 0
    assert_same_weights(model, untouched)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(EpochCheckpoint.__init__, "__defaults__", (0.0,))
    records = records_in(tmp_path)
    fit_classifier(new_classifier(), pipeline, RECIPE, seed=1, records=records)
    kept = list_checkpoints(records.folder)
    broken = dataclasses.replace(RECIPE, epochs=6, learning_rate=1e30)
    with pytest.raises(TrainingDivergedError) as caught:
        fit_classifier(new_classifier(), pipeline, broken, seed=1, records=records)
    message = str(caught.value)
    assert "stage pretrain_0" in message
    assert "epoch 5, step 2 of 2" in message
    assert str(kept[0]) in message
    assert list_checkpoints(records.folder) == kept


def test_weights_that_are_not_finite_are_not_saved(pipeline, tmp_path):
    model = new_classifier()
    model.weights[0].assign(np.full(model.weights[0].shape, np.nan))
    callback = EpochCheckpoint(tmp_path, every_seconds=0.0)
    callback.set_model(model)
    with pytest.raises(TrainingDivergedError, match="conv_1"):
        callback.on_epoch_end(0)
    assert not list(tmp_path.iterdir())


def test_a_last_step_that_breaks_the_weights_is_noticed(pipeline):
    # The loss of a step is finite, and the weights it leaves are not: no further loss
    # would tell. One epoch of one step.
    recipe = Recipe(epochs=1, batch_size=20, learning_rate=1e39, schedule="constant")
    with pytest.raises(TrainingDivergedError, match="after the last epoch"):
        fit_classifier(
            new_classifier(),
            dataclasses.replace(pipeline, batch_size=20),
            recipe,
            seed=1,
        )


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"stage": s, "epoch": e} for s in ("a", "b") for e in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"stage": "b", "epo')
    drop_records(path, "b", first_epoch=1)
    left = [json.loads(line) for line in path.read_text().splitlines()]
    assert left == lines[:4]
