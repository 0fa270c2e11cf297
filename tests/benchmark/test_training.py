import json
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from absl import flags

from pmal_tf.benchmark import __main__ as command
from pmal_tf.benchmark import training, training_pairs
from pmal_tf.benchmark.measurement import Measurement, write_measurements
from pmal_tf.benchmark.training_pairs import (
    Comparison,
    Pairs,
    Ratios,
    ReadyStep,
    time_pairs,
)
from pmal_tf.benchmark.training_steps import (
    Setting,
    Variant,
    build_step,
    precision,
)
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError

TINY = Setting("oscri", batch_size=8, precision="float32", width=0.05, image_size=8)
WORDS = ("--width=0.05", "--image_size=8", "--batch_sizes=8", "--repetitions=2")
SLICE = PMALSettings.prototype_slice
RATIOS = {
    *("step_ratio_joint", "step_ratio_every", "step_ratio_bank"),
    *("step_ratio_bank_2000", "xla_gain"),
}
STEPS = {*("softmax", "joint", "every", "bank", "softmax_200", "bank_200")}
VARIANTS = {variant.name: variant for variant in training.VARIANTS}


def arguments(*words):
    """What `run` is given for a command line."""
    values = flags.FlagValues()
    command.define_flags(values)
    values(["benchmark", *words])
    return command.KINDS["training"](values)


def names_with(*more):
    """The names of one combination whose steps are those that all have, and more."""
    figures = ("images_per_second", "compile_seconds", "peak_memory_mib")
    alone = {f"{figure}_{step}" for figure in figures for step in {*STEPS, *more}}
    return {*RATIOS, *alone, "checkpoint_seconds", "checkpoint_mib"}


@pytest.fixture
def brief(monkeypatch):
    """Has every step timed by itself."""
    monkeypatch.setattr(training_pairs, "_LEAST_SECONDS", 0.0)


@pytest.fixture(scope="module")
def measured():
    """Tables and measurements as plain graphs, which are compiled sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_pairs, "_LEAST_SECONDS", 0.0)
        # Measured for one step below; for all it would take longer than all else.
        patch.setattr(training_pairs, "_peak_memory", lambda step: 2**20)
        return training.run(**arguments(*WORDS, "--jit=off"))


def test_every_figure_is_measured_and_ratios_are_ours_over_the_reference(
    measured, tmp_path
):
    text, measurements = measured
    found = {each.name: each for each in measurements}
    assert len(found) == len(measurements)
    assert set(found) == names_with("softmax_xla")
    for name in RATIOS:
        assert found[name].value == found[name].ours / found[name].reference > 0
        assert f"| {name} " in text
    for name in set(found) - RATIOS:
        assert found[name].value > 0
        assert found[name].ours is found[name].reference is None
    write_measurements(tmp_path / "training.json", measurements)
    written = json.loads((tmp_path / "training.json").read_text())
    assert {each["name"]: each["value"] for each in written} == {
        name: each.value for name, each in found.items()
    }


def test_a_step_has_a_peak_of_memory():
    step = build_step(VARIANTS["softmax"], TINY, jit=False)
    step()
    assert training_pairs._peak_memory(step) > 0


def test_tables_tell_hardware_numbers_spreads_and_the_arithmetic(measured):
    text, _ = measured
    assert text.startswith("Hardware: ")
    assert "oscri, width 0.05, 8 x 8 pixels, batch 8, float32." in text
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    told = {row[0]: row for row in rows}
    # 60 or 6 prototypes beside a batch of 8.
    arithmetic = {name: told[name][-1] for name in RATIOS}
    assert arithmetic == {
        **{"step_ratio_joint": "8.5", "step_ratio_every": "8.5"},
        **{"step_ratio_bank": "1.75", "step_ratio_bank_2000": "1.75"},
        "xla_gain": "1",
    }
    assert all("(n = 2, " in told[name][5] for name in RATIOS)
    assert told["xla_gain"][1:3] == [
        *("softmax, K = 6, XLA", "softmax, K = 6, plain graph")
    ]
    # In three pairs of PMAL and one of XLA.
    assert "(n = 8, " in told["softmax, K = 6, plain graph"][2]
    assert "input costs at most " in text


@pytest.mark.usefixtures("brief")
def test_all_combinations_are_measured_and_the_later_ones_named(monkeypatch):
    few = [VARIANTS["softmax"], VARIANTS["joint"]]
    plan = few, [Comparison("step_ratio_joint", "joint", "softmax")]
    monkeypatch.setattr(training, "_plan", lambda jit: plan)
    _, measurements = training.run(
        **arguments(*WORDS, "--batch_sizes=4,8", "--jit=off", "--precision=float64")
    )
    names = [each.name for each in measurements]
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    assert first[0] == "step_ratio_joint"
    assert second == [f"{name}_oscri_8_float64" for name in first]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("jit", [True, False])
def test_the_gain_of_xla_has_both_softmax_steps(jit):
    variants, comparisons = training._plan(jit)
    gain = comparisons[-1]
    xla = {v.name: jit if v.xla is None else v.xla for v in variants}
    assert (gain.name, gain.of_rates) == ("xla_gain", True)
    assert (xla[gain.ours], xla[gain.reference]) == (True, False)
    assert {c.name for c in comparisons} == RATIOS
    assert all(xla[c.ours] == xla[c.reference] == jit for c in comparisons[:-1])


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_step_trains(name):
    step = build_step(VARIANTS[name], TINY, jit=False)
    before = step.model.get_weights()
    losses = [step()["loss"] for _ in range(3)]
    assert np.isfinite(losses).all()
    trained = [
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, step.model.weights, strict=True)
        if new.trainable
    ]
    assert len(trained) > 20
    assert all(trained)
    assert int(step.model.optimizer.iterations) == 3


def test_a_step_under_xla_trains_as_well():
    step = build_step(VARIANTS["bank"], TINY, jit=True)
    before = step.model.trainable_weights[0].numpy()
    step()
    assert step.jit
    assert not np.array_equal(before, step.model.trainable_weights[0].numpy())


@pytest.mark.parametrize(
    ("name", "fed", "classes"),
    [("joint", 60, 6), ("every", 60, 6), ("bank", SLICE, 6), ("bank_200", SLICE, 200)],
)
def test_prototypes_are_dealt_as_in_training(name, fed, classes):
    step = build_step(VARIANTS[name], TINY, jit=False)
    assert step.fed == fed
    slots = []
    for features, label in step.batches.take(2):
        assert features["image"].shape == (8, 8, 8, 3)
        assert features["prototype_image"].shape == (fed, 8, 8, 3)
        assert features["prototype_index"].shape == (classes, 10)
        # No image is a prototype, which would be left out of its own distances.
        own = features["example_index"].numpy()
        assert not np.isin(own, features["prototype_index"]).any()
        assert label.numpy().max() < classes
        slots.append(features["prototype_slot"].numpy())
    # All of them, or the first ones of each class in turn.
    assert len(np.unique(np.concatenate(slots))) == min(2 * fed, 10 * classes)
    assert build_step(VARIANTS["softmax"], TINY, jit=False).fed == 0


def test_the_bank_starts_as_in_training_and_keeps_what_is_not_fed():
    step = build_step(VARIANTS["bank"], TINY, jit=False)
    before = step.model.prototype_embeddings.numpy()
    assert np.abs(before).sum(axis=-1).min() > 0
    step()
    changed = np.any(step.model.prototype_embeddings.numpy() != before, axis=-1)
    # The first prototypes of six classes.
    assert changed[:, 0].all()
    assert changed.sum() == 6


def test_a_step_that_breaks_weights_is_an_error():
    step = build_step(Variant("softmax", "softmax"), TINY, jit=False)
    kernel = step.model.trainable_weights[0]
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(TrainingDivergedError, match="not after step 1"):
        step()


def test_a_step_s_memory_is_that_of_its_activations():
    setting = Setting("oscri", 128, "float32", width=0.25, image_size=32)
    step = build_step(VARIANTS["softmax"], setting, jit=False)
    for _ in range(2):  # The pool has grown by the second time, and is not given back.
        step()
        peak = training_pairs._peak_memory(step)
    # The first two convolutions make maps of full size, 16 channels each, and for the
    # gradient each is kept before BatchNorm and after it; all that follows is smaller.
    one_map = 128 * 32 * 32 * 16 * 4
    assert 4 * one_map < peak < 40 * one_map


def fake_step(name, seconds, clock, calls):
    """A step that takes its seconds on a clock that is made up."""

    def step():
        calls.append(name)
        clock[0] += seconds

    return ReadyStep(Variant(name, name), step, 9.0, seconds, 0)


def test_pairs_are_timed_back_to_back_in_changing_order(monkeypatch):
    clock, calls = [0.0], []
    fake_time = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("pmal_tf.benchmark.measurement.time", fake_time)
    seconds = {"a": 3.0, "b": 2.0, "c": 0.1}
    steps = {n: fake_step(n, s, clock, calls) for n, s in seconds.items()}
    comparisons = [Comparison("ab", "a", "b"), Comparison("ac", "a", "c", True)]
    monkeypatch.setattr(training_pairs, "_LEAST_SECONDS", 0.15)
    first, second = time_pairs(comparisons, steps, 6, 2)
    # Steps of the second pair twice each, so that they last as long as is asked for.
    assert "".join(calls) == "abaaccccaabaabaacc"
    assert first.ours.values == (3.0, 3.0)
    assert first.reference.values == (2.0, 2.0)
    assert first.measurement == Measurement("ab", 1.5, "ratio", 3.0, 2.0)
    # Images a second.
    assert second.measurement.ours == pytest.approx(2.0)
    assert second.measurement.reference == pytest.approx(60.0)
    assert first.seconds_of("a") == (3.0, 3.0)
    assert first.seconds_of("b") == (2.0, 2.0)
    assert first.seconds_of("c") == ()


def test_a_ratio_is_the_median_of_those_of_pairs_and_is_one_of_them():
    # Of the medians, 3 and 2, it would be 1.5.
    pairs = Pairs(Comparison("r", "a", "b"), ((3.0, 1.0), (1.0, 2.0), (4.0, 2.0)), 1)
    assert pairs.measurement == Measurement("r", 2.0, "ratio", 4.0, 2.0)
    assert str(pairs.ratios) == "2 (n = 3, 0.5 to 3)"
    assert Ratios((4.0, 1.0, 2.0, 3.0)).median == 2.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbones=vgg"], "`backbone` must be one of oscri.*Received: .*vgg"),
        (["--backbones="], "`backbones` must list at least one value, each once"),
        (["--batch_sizes=8,8"], "each once. Received: --batch_sizes=8,8"),
        (["--batch_sizes=8,many"], "whole numbers. Received: --batch_sizes=8,many"),
        (["--batch_sizes=0"], "`batch_size` must lie in .*Received: batch_size=0"),
        (["--precision=int8"], "`precision` must be one of float32"),
        (["--width=0"], "`width` must lie in"),
        (["--image_size=4"], "`image_size` must be at least 8. Received: --image_size"),
        (["--jit=auto"], "`jit` must be on or off. Received: --jit=auto"),
        (["--repetitions=0"], "`repetitions` must be at least 1"),
    ],
)
def test_settings_out_of_range_are_errors(words, message):
    with pytest.raises(PmalError, match=message):
        training.run(**arguments(*words))


def test_a_device_that_cannot_do_it_is_told_before_anything_is_measured(monkeypatch):
    def refuse(policy):
        raise PmalError(f"no {policy} here")

    monkeypatch.setattr(training, "check_precision", refuse)
    with pytest.raises(PmalError, match="no mixed_float16 here"):
        training.run(**arguments("--precision=mixed_float16"))


def test_the_command_measures_the_paper_s_step_by_default():
    assert arguments() == {
        **{"backbones": ["oscri"], "batch_sizes": [128], "precisions": ["float32"]},
        **{"width": 1.0, "image_size": 32, "jit": "on", "repetitions": 15},
    }


def test_the_command_tells_a_mistake_in_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "pmal_tf.benchmark", "training", "--batch_sizes=x"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Error: `batch_sizes` must list whole numbers" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_policy_is_set_for_a_while():
    with precision("float64"):
        assert keras.config.dtype_policy().name == "float64"
    assert keras.config.dtype_policy().name == "float32"
