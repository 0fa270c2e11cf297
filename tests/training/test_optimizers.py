"""Coupled weight decay and momentum by hand and against PyTorch's formulas."""

import keras
import numpy as np
import pytest

from pmal_tf.training.optimizers import CoupledAdam, CoupledSGD


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


def torch_sgd(gradients, rates, decay, momentum, nesterov=False, start=2.0):
    """`torch.optim.SGD(...)` as its documentation gives it, dampening 0."""
    value, buffer = start, 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + decay * value
        buffer = momentum * buffer + gradient
        value -= rate * (gradient + momentum * buffer if nesterov else buffer)
    return value


def rates_of(rates):
    """A schedule that gives these rates, one after the other."""
    boundaries = list(range(len(rates) - 1))
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


def test_coupled_sgd_by_hand():
    # b = 1 + 0.5 * 2 = 2 and w = 2 - 0.1 * 2 = 1.8; then the gradient is 0 + 0.5 * 1.8,
    # b = 0.9 * 2 + 0.9 = 2.7 and w = 1.8 - 0.27 = 1.53.
    optimizer = CoupledSGD(0.5, learning_rate=0.1, momentum=0.9)
    assert steps(optimizer, [1.0, 0.0]) == pytest.approx(1.53, abs=1e-6)


def test_a_drop_of_the_rate_slows_the_momentum_at_once():
    # b = 1, w = 2 - 0.1; b = 0.9, w = 1.9 - 0.01 * 0.9. Keras's SGD: 1.9 - 0.1 * 0.9.
    rates = rates_of([0.1, 0.01])
    optimizer = CoupledSGD(learning_rate=rates, momentum=0.9)
    assert steps(optimizer, [1.0, 0.0]) == pytest.approx(1.891, abs=1e-6)
    keras_s = keras.optimizers.SGD(learning_rate=rates, momentum=0.9)
    assert steps(keras_s, [1.0, 0.0]) == pytest.approx(1.81, abs=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_coupled_sgd_equals_torch_s_formula_across_rates(momentum, nesterov, rng):
    gradients = rng.normal(size=30).tolist()
    rates = [0.0, 0.05, 0.1] + 9 * [0.2] + 9 * [0.02] + 9 * [0.002]
    optimizer = CoupledSGD(
        0.1, learning_rate=rates_of(rates), momentum=momentum, nesterov=nesterov
    )
    expected = torch_sgd(gradients, rates, 0.1, momentum, nesterov)
    assert steps(optimizer, gradients) == pytest.approx(expected, abs=2e-6)


def test_coupled_adam_equals_torch_s_formula():
    gradients = [1.0, -0.5, 0.25, 0.0, 2.0]
    optimizer = CoupledAdam(0.1, learning_rate=0.01, epsilon=1e-8)
    expected = torch_adam(gradients, lr=0.01, decay=0.1, beta_1=0.9)
    assert steps(optimizer, gradients) == pytest.approx(expected, abs=1e-5)


def test_epsilon_counts_more_at_the_start_than_torch_s():
    # Step 1: PyTorch's g / (|g| + 1e-8); here epsilon counts 1 / sqrt(0.001) = 31.6
    # times. At g = 1e-4, 1 / (1 + 31.6e-4) instead of 1 / (1 + 1e-4).
    optimizer = CoupledAdam(learning_rate=1.0, epsilon=1e-8)
    moved = -steps(optimizer, [1e-4], start=0.0)
    assert moved == pytest.approx(0.99685, abs=5e-5)
    torch_s = -torch_adam([1e-4], lr=1.0, decay=0.0, beta_1=0.9, start=0.0)
    assert moved / torch_s - 1 == pytest.approx(-0.003, abs=1e-4)


@pytest.mark.parametrize("kind", [CoupledAdam, CoupledSGD])
def test_optimizers_survive_serialisation(kind):
    optimizer = kind(0.5, learning_rate=rates_of([0.1, 0.01]))
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert type(copy) is kind
    assert steps(copy, [1.0, 0.0]) == steps(optimizer, [1.0, 0.0]) != 2.0
