"""What recipes build: rates by hand, and at every step against a loop."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.optimizers import CoupledAdam, CoupledSGD
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.schedules import LinearWarmup

SCHEDULES = ["step", "cosine", "cosine_restarts", "triangular", "constant"]
WARMED_UP = [schedule for schedule in SCHEDULES if schedule != "triangular"]


def rates(schedule, steps):
    """The rates at many steps; a constant is one of its own."""
    steps = np.asarray(steps)
    if isinstance(schedule, float):
        return np.full(steps.shape, schedule)
    return np.broadcast_to(schedule(tf.constant(steps)), steps.shape)


def expected_rate(recipe, steps_per_epoch, step):
    """One rate in float64, from the definitions and nothing of the package."""
    total, rise = (e * steps_per_epoch for e in (recipe.epochs, recipe.warmup_epochs))
    rate = recipe.learning_rate
    if recipe.schedule == "step":
        rate *= 0.1 ** (step // steps_per_epoch // recipe.drop_every)
    elif recipe.schedule == "triangular":
        corners, share = [0.0, 0.23, 1.0], step / total
        rate *= np.interp(share, corners, [0.2, 1.0, 0.07])
    elif recipe.schedule != "constant":
        cycles = recipe.restarts + 1 if recipe.schedule == "cosine_restarts" else 1
        # Whole numbers: a cycle need not begin at a whole step.
        number = min(step * cycles // total, cycles - 1)
        start = max(number * total / cycles, rise)
        end = (number + 1) * total / cycles
        share = min(max((step - start) / (end - start), 0.0), 1.0)
        rate *= (1 + math.cos(math.pi * share)) / 2
    return rate * (min(1.0, step / rise) if rise else 1.0)


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


QUARTER = (1 + math.sqrt(0.5)) / 2
CYCLE = [1.0, QUARTER, 0.5, 1 - QUARTER]
# Settings, steps per epoch, and rates by step.
BY_HAND = [
    ({"epochs": 10, "schedule": "cosine"}, 5, {0: 1, 25: 0.5, 50: 0}),
    # 12 steps in 3 cycles of 4: shares 0, 1/4, 1/2, 3/4, and 0 once all is over.
    (
        {"epochs": 6, "schedule": "cosine_restarts"},
        2,
        dict(enumerate([*CYCLE, *CYCLE, *CYCLE, 0, 0, 0])),
    ),
    # Epochs of 2 steps: up in 4 steps, then down in 8.
    (
        {"epochs": 6, "schedule": "cosine", "warmup_epochs": 2},
        2,
        {0: 0, 1: 0.25, 2: 0.5, 3: 0.75, 4: 1, 6: QUARTER, 8: 0.5, 12: 0, 99: 0},
    ),
    # A drop at steps 4 and 8; the warm-up lasts until step 6.
    (
        {"epochs": 6, "drop_every": 2, "warmup_epochs": 3},
        2,
        {0: 0, 1: 1 / 6, 3: 3 / 6, 4: 0.4 / 6, 5: 0.5 / 6, 6: 0.1, 7: 0.1, 8: 0.01},
    ),
    (
        {"epochs": 3, "schedule": "constant", "warmup_epochs": 1},
        3,
        {0: 0, 1: 1 / 3, 2: 2 / 3, 3: 1, 5: 1},
    ),
]


@pytest.mark.parametrize(("settings", "steps_per_epoch", "expected"), BY_HAND)
def test_rates_by_hand(settings, steps_per_epoch, expected):
    recipe = Recipe(learning_rate=1.0, **settings)
    rate = rates(recipe.build_schedule(steps_per_epoch), list(expected))
    np.testing.assert_allclose(rate, list(expected.values()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_epochs", [0, 1, 3])
@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "restarts"),
    # Cycles of whole epochs, of whole steps, and of neither; one step an epoch.
    [(12, 5, 2), (14, 6, 3), (11, 7, 2), (13, 1, 2)],
)
def test_every_rate_equals_a_loop(
    schedule, warmup_epochs, epochs, steps_per_epoch, restarts
):
    recipe = Recipe(
        epochs=epochs,
        learning_rate=0.1,
        schedule=schedule,
        restarts=restarts,
        warmup_epochs=warmup_epochs if schedule in WARMED_UP else 0,
        drop_every=4,
    )
    steps = range(epochs * steps_per_epoch)
    expected = [expected_rate(recipe, steps_per_epoch, step) for step in steps]
    rate = rates(recipe.build_schedule(steps_per_epoch), steps)
    np.testing.assert_allclose(rate, expected, rtol=2e-5, atol=1e-8)


def test_rates_are_exact_after_millions_of_steps():
    # ImageNet: 10,009 steps an epoch. 3 cycles of 2,001,800 steps.
    recipe = Recipe(schedule="cosine_restarts", learning_rate=0.1, warmup_epochs=10)
    total = 600 * 10_009
    steps = np.unique(
        [
            *np.linspace(0, total - 1, 5000).astype(int),
            *(edge + near for edge in (100_090, total // 3) for near in range(-3, 4)),
            *(2 * total // 3 + near for near in range(-3, 4)),
            *(total - near for near in range(1, 4)),
        ]
    )
    rate = rates(recipe.build_schedule(10_009), steps)
    expected = [expected_rate(recipe, 10_009, step) for step in steps]
    # float64's own (1 + cos) / 2 is good to 1e-16 near 0.
    np.testing.assert_allclose(rate, expected, rtol=1e-6, atol=1e-16)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_are_the_same_within_a_compiled_step(schedule):
    warmup = 2 if schedule in WARMED_UP else 0
    recipe = Recipe(epochs=11, schedule=schedule, warmup_epochs=warmup, drop_every=3)
    built = recipe.build_schedule(7)
    compiled = tf.function(lambda step: built(step) + 0.0, jit_compile=True)
    iterations = keras.Variable(0, dtype="int64", trainable=False)
    for step in (0, 1, 13, 14, 21, 25, 26, 51, 52, 76, 77):
        iterations.assign(step)
        rate = float(compiled(iterations.value))
        assert rate == pytest.approx(float(built(step)), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_warm_up_the_rate_is_the_schedule_s_own(schedule):
    built = Recipe(schedule=schedule).build_schedule(7)
    assert not isinstance(built, LinearWarmup)
    if schedule == "cosine":
        assert type(built) is keras.optimizers.schedules.CosineDecay


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_compiled_model_is_loaded_with_its_rates(schedule, tmp_path):
    recipe = Recipe(
        epochs=10,
        optimizer="sgd",
        schedule=schedule,
        restarts=1,
        warmup_epochs=2 if schedule in WARMED_UP else 0,
        drop_every=3,
    )
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(recipe.build_optimizer(4), loss="mse")
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    for _ in range(11):
        model.train_on_batch(x, x[:, :2])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, CoupledSGD)
    rate = float(model.optimizer.learning_rate)
    assert rate == pytest.approx(expected_rate(recipe, 4, 11), rel=1e-5)
    assert float(loaded.optimizer.learning_rate) == rate
    copy, own = loaded.optimizer.get_config(), model.optimizer.get_config()
    assert copy["learning_rate"] == own["learning_rate"]


def test_the_optimizer_takes_the_rate_of_each_step():
    # Rates 0, 1/2, 1, 1 and a gradient of 1: from 10 to 10, 9.5, 8.5, 7.5.
    recipe = Recipe(
        epochs=4,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=1.0,
        schedule="constant",
        warmup_epochs=2,
    )
    optimizer, variable = recipe.build_optimizer(1), keras.Variable([10.0])
    values = []
    for _ in range(4):
        optimizer.apply([tf.ones(1)], [variable])
        values.append(float(variable[0]))
    assert values == [10.0, 9.5, 8.5, 7.5]


@pytest.mark.parametrize("schedule", WARMED_UP)
def test_a_warm_up_that_leaves_nothing_is_an_error(schedule):
    longest, limit = 8, "less than epochs with"
    if schedule == "cosine_restarts":
        longest, limit = 2, r"less than epochs / \(restarts \+ 1\) with"
    said = f"`warmup_epochs` must be {limit}.* warmup_epochs={longest + 1}, epochs=9"
    with pytest.raises(PmalError, match=said):
        Recipe(epochs=9, schedule=schedule, restarts=2, warmup_epochs=longest + 1)
    Recipe(epochs=9, schedule=schedule, restarts=2, warmup_epochs=longest)


def test_the_recipe_builds_either_kind_of_decay():
    coupled = Recipe(schedule="constant").build_optimizer(10)
    assert isinstance(coupled, CoupledAdam)
    assert (coupled.coupled_weight_decay, coupled.weight_decay) == (5e-4, None)
    apart = Recipe(schedule="constant", decoupled_weight_decay=True)
    apart = apart.build_optimizer(10)
    assert (apart.coupled_weight_decay, apart.weight_decay) == (0.0, 5e-4)
    assert coupled.epsilon == 1e-8  # PyTorch's; Keras's own is 1e-7.
    sgd = Recipe(optimizer="sgd", momentum=0.8).build_optimizer(10)
    assert isinstance(sgd, CoupledSGD)
    assert sgd.momentum == 0.8


def test_unknown_names_are_errors_that_list_those_tested_here():
    with pytest.raises(PmalError, match=r"one of adam, sgd\. Received"):
        Recipe(optimizer="lamb")
    with pytest.raises(PmalError, match=rf"one of {', '.join(SCHEDULES)}\. Received"):
        Recipe(schedule="linear")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"schedule": "triangular", "warmup_epochs": 1}, "rises by itself.*epochs=1"),
        ({"nesterov": True}, "needs optimizer=sgd.*Received: optimizer=adam"),
        (
            {"decay_kernels_only": True, "decoupled_weight_decay": True},
            "`decay_kernels_only` is for a decay in the gradient",
        ),
        (
            {"warmup_epochs": 3, "optimize_epochs": 2},
            "less than epochs with.*warmup_epochs=3, epochs=2",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_errors(options, sentence):
    with pytest.raises(PmalError, match=sentence):
        Recipe(**options)


def test_stages_that_go_on_have_epochs_and_a_rate_of_their_own():
    recipe = Recipe(epochs=9, optimize_epochs=3, optimize_learning_rate=0.5)
    assert recipe.first == Recipe(epochs=9)
    assert recipe.continued == Recipe(epochs=3, learning_rate=0.5)
    plain = Recipe(epochs=9, learning_rate=0.2)
    assert plain.first == plain.continued == plain


def test_the_recipe_s_sgd_is_torch_s_nesterov_on_kernels_and_faster_offsets():
    recipe = Recipe(
        optimizer="sgd",
        momentum=0.5,
        nesterov=True,
        weight_decay=0.1,
        decay_kernels_only=True,
        offset_rate=3.0,
        learning_rate=0.2,
        schedule="constant",
    )
    variables = [
        keras.Variable([2.0], name=name) for name in ("kernel", "beta", "bias")
    ]
    optimizer = recipe.build_optimizer(1)
    for _ in range(2):
        optimizer.apply([tf.ones(1)] * 3, variables)
    # Without decay: g = 1, b = 1, then 1.5; w -= r (1 + b / 2): 1.5 r, then 1.75 r.
    assert [float(v[0]) for v in variables[1:]] == pytest.approx(
        [2.0 - 0.6 * 3.25, 2.0 - 0.2 * 3.25], abs=1e-6
    )
    # g = 1.2, b = 1.2, w = 2 - 0.2 * 1.8 = 1.64; g = 1.164, b = 1.764: minus 0.4092.
    assert float(variables[0][0]) == pytest.approx(1.64 - 0.4092, abs=1e-6)
