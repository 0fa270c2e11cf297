import dataclasses
import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.benchmark import training
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.benchmark.training import (
    Setting,
    TrainingStep,
    Variant,
    build_step,
    median_ratio,
    time_pairs,
)
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError

TINY = Setting("oscri", batch_size=8, precision="float32", width=0.05, image_size=8)
SLICE = PMALSettings.prototype_slice
RATIOS = {
    *("step_ratio_joint", "step_ratio_every", "step_ratio_bank"),
    *("step_ratio_bank_2000", "xla_gain"),
}
STEPS = ("softmax", "joint", "every", "bank", "softmax_200", "bank_200")
VARIANTS = {variant.name: variant for variant in training.VARIANTS}


@functools.cache
def built(name):
    return build_step(dataclasses.replace(VARIANTS[name], jit=False), TINY)


class FakeStep(TrainingStep):
    """A step that does nothing."""

    def __call__(self):
        return {}


def fake_step(variant, setting=None):
    return FakeStep(variant, built("softmax").model, built("softmax").batches)


@pytest.fixture
def quick(monkeypatch):
    """Has steps that compile nothing, timed one by one."""
    monkeypatch.setattr(training, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(training, "_peak_memory", lambda step: 2**20)
    monkeypatch.setattr(training, "build_step", fake_step)


def run(**given):
    options = {"width": 0.05, "image_size": 8, "batch_sizes": (8,), "repetitions": 2}
    return training.run(BenchmarkSettings(**{**options, "jit": "off", **given}))


@pytest.mark.usefixtures("quick")
def test_every_figure_is_measured_and_ratios_are_ours_over_the_reference():
    text, measurements = run()
    found = {each.name: each for each in measurements}
    assert len(found) == len(measurements)
    alone = {
        f"{figure}_{step}"
        for figure in ("images_per_second", "compile_seconds", "peak_memory_mib")
        for step in (*STEPS, "softmax_xla")
    }
    assert set(found) == {*RATIOS, *alone, "checkpoint_seconds", "checkpoint_mib"}
    for name in RATIOS:
        assert found[name].value == found[name].ours / found[name].reference > 0
        assert all(len(side) == 2 for side in found[name].samples)
        assert f"| {name} " in text
    for name in set(found) - RATIOS:
        assert found[name].ours is found[name].reference is None
    assert "oscri, width 0.05, 8 x 8 pixels, batch 8, float32." in text
    # 60 or 6 prototypes beside a batch of 8.
    times = {"joint": "8.5", "every": "8.5", "bank": "1.75", "bank_2000": "1.75"}
    for name, images in times.items():
        assert f"; {images} times the images;" in found[f"step_ratio_{name}"].note
    gain = found["xla_gain"]
    assert gain.note.startswith("softmax, K = 6, XLA / softmax, K = 6, plain graph; 1 ")
    assert gain.sides == "images/s"
    # In three pairs of PMAL and one of XLA.
    assert len(found["images_per_second_softmax"].samples[0]) == 8
    assert "input costs at most " in text


@pytest.mark.usefixtures("quick")
def test_all_combinations_are_measured_and_the_later_ones_named():
    _, measurements = run(batch_sizes=(4, 8), precision=("float64",))
    names = [each.name for each in measurements]
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    assert first[0] == "step_ratio_joint"
    assert second == [f"{name}_oscri_8_float64" for name in first]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("jit", [True, False])
def test_the_gain_of_xla_has_both_softmax_steps(jit):
    variants, comparisons = training._plan(jit)
    xla = {v.name: v.jit for v in variants}
    pairs = {name: (xla[a], xla[b]) for name, (a, b) in comparisons.items()}
    assert pairs.pop("xla_gain") == (True, False)
    assert pairs == dict.fromkeys(RATIOS - {"xla_gain"}, (jit, jit))


def assert_trains(step):
    before = step.model.get_weights()
    done = int(step.model.optimizer.iterations)
    losses = [step()["loss"] for _ in range(3)]
    assert np.isfinite(losses).all()
    trained = [
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, step.model.weights, strict=True)
        if new.trainable
    ]
    assert len(trained) > 20
    assert all(trained)
    assert int(step.model.optimizer.iterations) == done + 3


@pytest.mark.parametrize("name", ["softmax", "joint"])
def test_every_step_trains(name):
    assert_trains(built(name))


@pytest.mark.parametrize(
    ("name", "count", "classes"),
    [("joint", 60, 6), ("every", 60, 6), ("bank", SLICE, 6), ("bank_200", SLICE, 200)],
)
def test_prototypes_are_dealt_as_in_training(name, count, classes):
    step = built(name)
    assert VARIANTS[name].prototypes == count
    slots = []
    for features, label in step.batches.take(2):
        assert features["image"].shape == (8, 8, 8, 3)
        assert features["prototype_image"].shape == (count, 8, 8, 3)
        assert features["prototype_index"].shape == (classes, 10)
        # No image is a prototype, which would be left out of its own distances.
        own = features["example_index"].numpy()
        assert not np.isin(own, features["prototype_index"]).any()
        assert label.numpy().max() < classes
        slots.append(features["prototype_slot"].numpy())
    # All of them, or the first ones of each class in turn.
    assert len(np.unique(np.concatenate(slots))) == min(2 * count, 10 * classes)
    assert "prototype_image" not in built("softmax").batches.element_spec[0]


def test_the_bank_starts_as_in_training_and_keeps_the_other_prototypes():
    step = built("bank")
    before = step.model.prototype_embeddings.numpy()
    assert np.abs(before).sum(axis=-1).min() > 0
    step()
    changed = np.any(step.model.prototype_embeddings.numpy() != before, axis=-1)
    # The first prototypes of six classes.
    assert changed[:, 0].all()
    assert changed.sum() == 6
    assert_trains(step)


def test_a_step_that_breaks_weights_is_an_error(monkeypatch):
    own = built("softmax")
    step = TrainingStep(own.variant, own.model, own.batches)
    # What the loop says of a first step that left a weight that is not finite.
    monkeypatch.setattr(step, "_execute", lambda *_: (0, {"loss": np.nan}))
    with pytest.raises(TrainingDivergedError, match="not after step 1"):
        step()


def test_a_step_s_memory_is_that_of_what_it_holds_at_a_time():
    def step():  # Two tensors of 64 MiB, over and over.
        for _ in range(3):
            numbers = tf.random.uniform([16 * 2**20])
            float(tf.reduce_sum(numbers + 1.0))

    for _ in range(2):  # The pool has grown by the second time, and is not given back.
        step()
        peak = training._peak_memory(step)
    assert 100 < peak / 2**20 < 300


class TimedStep:
    """A step that takes its seconds on a clock that is made up."""

    def __init__(self, name, takes, clock, calls):
        self.name, self.takes, self.clock, self.calls = name, takes, clock, calls
        self.seconds = []

    def __call__(self):
        self.calls.append(self.name)
        self.clock[0] += self.takes


def test_pairs_are_timed_back_to_back_in_changing_order(monkeypatch):
    clock, calls = [0.0], []
    fake_time = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("pmal_tf.benchmark.measurement.time", fake_time)
    seconds = {"a": 3.0, "b": 2.0, "c": 0.1}
    steps = {n: TimedStep(n, s, clock, calls) for n, s in seconds.items()}
    monkeypatch.setattr(training, "_LEAST_SECONDS", 0.15)
    found = time_pairs({"ab": ("a", "b"), "ac": ("a", "c")}, steps, 2)
    # Steps that are short are taken for as long as is asked for.
    assert "".join(calls) == "abacc" + "ccaba" + "abacc"
    assert found["ab"] == [(3.0, 2.0), (3.0, 2.0)]
    assert np.array(found["ac"]) == pytest.approx(np.array([[3.0, 0.1]] * 2))
    assert steps["a"].seconds == pytest.approx([3.0] * 4)
    assert steps["b"].seconds == [2.0, 2.0]


@pytest.mark.parametrize(
    ("pairs", "name", "expected"),
    [
        # Of the medians, 3 and 2, it would be 1.5.
        ([(3.0, 1.0), (1.0, 2.0), (4.0, 2.0)], "ratio", (2.0, 4.0, 2.0)),
        # 8 images a step.
        ([(2.0, 4.0)], "xla_gain", (2.0, 4.0, 2.0)),
        # The lower of the middle two.
        ([(4.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], "ratio", (2.0, 2.0, 1.0)),
    ],
)
def test_a_ratio_is_the_median_of_those_of_pairs_and_is_one_of_them(
    pairs, name, expected
):
    found = median_ratio(name, pairs, Variant("a", "a"), Variant("b", "b"), 8)
    assert (found.value, found.ours, found.reference) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbones": ()}, "`backbones` must list at least one value, each once"),
        ({"batch_sizes": (8, 8)}, "each once. Received: --batch_sizes=8,8"),
        ({"image_size": 4}, "`image_size` must be at least 8. Received: --image_size"),
    ],
)
def test_settings_that_cannot_be_measured_are_errors(given, message):
    with pytest.raises(PmalError, match=message):
        run(**given)


def test_a_device_that_cannot_do_it_is_told_before_anything_is_measured(monkeypatch):
    def refuse(policy):
        raise PmalError(f"no {policy} here")

    monkeypatch.setattr(training, "check_precision", refuse)
    with pytest.raises(PmalError, match="no mixed_float16 here"):
        run(precision=("mixed_float16",))
