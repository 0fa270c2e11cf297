"""Coupled weight decay by hand, schedules at their drops."""

import keras
import numpy as np
import pytest

from pmal_tf.errors import PmalError
from pmal_tf.training.optimizers import CoupledAdam, CoupledSGD
from pmal_tf.training.recipe import Recipe


def steps(optimizer, gradients, start=2.0):
    variable = keras.Variable([start])
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([np.array([gradient], np.float32)], [variable])
    return float(variable[0])


def torch_adam(gradients, lr, decay, beta_1, beta_2=0.999, epsilon=1e-8, start=2.0):
    """`torch.optim.Adam(weight_decay=...)` as its documentation gives it."""
    value, first, second = start, 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        gradient = gradient + decay * value
        first = beta_1 * first + (1 - beta_1) * gradient
        second = beta_2 * second + (1 - beta_2) * gradient**2
        corrected = second / (1 - beta_2**t)
        value -= lr * first / (1 - beta_1**t) / (np.sqrt(corrected) + epsilon)
    return value


def test_coupled_sgd_by_hand():
    # v = -0.1 (1 + 0.5 * 2) = -0.2 and w = 1.8; then the gradient is 0 + 0.5 * 1.8 and
    # v = 0.9 * -0.2 - 0.1 * 0.9 = -0.27, w = 1.53.
    optimizer = CoupledSGD(0.5, learning_rate=0.1, momentum=0.9)
    assert steps(optimizer, [1.0, 0.0]) == pytest.approx(1.53, abs=1e-6)


def test_coupled_adam_equals_torch_s_formula():
    gradients = [1.0, -0.5, 0.25, 0.0, 2.0]
    optimizer = CoupledAdam(0.1, learning_rate=0.01, epsilon=1e-8)
    expected = torch_adam(gradients, lr=0.01, decay=0.1, beta_1=0.9)
    assert steps(optimizer, gradients) == pytest.approx(expected, abs=1e-5)


def test_recipe_builds_either_kind_of_decay():
    coupled = Recipe(schedule="constant").build_optimizer(10)
    assert (coupled.coupled_weight_decay, coupled.weight_decay) == (5e-4, None)
    apart = Recipe(schedule="constant", decoupled_weight_decay=True)
    apart = apart.build_optimizer(10)
    assert (apart.coupled_weight_decay, apart.weight_decay) == (0.0, 5e-4)
    assert coupled.epsilon == 1e-8  # PyTorch's; Keras's own is 1e-7.
    sgd = Recipe(optimizer="sgd", momentum=0.8).build_optimizer(10)
    assert isinstance(sgd, CoupledSGD)
    assert sgd.momentum == 0.8


def test_optimizers_survive_serialisation():
    optimizer = CoupledAdam(0.1, learning_rate=0.5)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert isinstance(copy, CoupledAdam)
    assert copy.coupled_weight_decay == 0.1


def test_step_schedule_is_the_paper_s():
    schedule = Recipe().build_schedule(steps_per_epoch=7)
    rate = {epoch: float(schedule(epoch * 7)) for epoch in (0, 119, 120, 239, 240, 599)}
    expected = {0: 1e-2, 119: 1e-2, 120: 1e-3, 239: 1e-3, 240: 1e-4, 599: 1e-6}
    assert rate == pytest.approx(expected, rel=1e-5)
    # The very step at which epoch 120 begins, and the one before.
    assert float(schedule(839)) == pytest.approx(1e-2)
    assert float(schedule(840)) == pytest.approx(1e-3)


def test_step_schedule_shorter_than_a_drop_is_constant():
    assert Recipe(epochs=120).build_schedule(7) == 0.01


def test_cosine_schedule_ends_at_zero():
    schedule = Recipe(epochs=10, schedule="cosine").build_schedule(5)
    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(25)) == pytest.approx(0.005)
    assert float(schedule(50)) == pytest.approx(0.0, abs=1e-9)


def test_unknown_names_are_errors():
    with pytest.raises(PmalError, match="adam, sgd"):
        Recipe(optimizer="lamb").build_optimizer(1)
    with pytest.raises(PmalError, match="step, cosine, constant"):
        Recipe(schedule="linear").build_schedule(1)
