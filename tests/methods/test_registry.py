"""Every method declares what the others may rely on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.methods import registry
from pmal_tf.results.scores.registry import get_scores
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.checkpoints import restore_newest, save_checkpoint
from pmal_tf.training.fit import fit
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.trainable import Trainable


@pytest.mark.parametrize("name", registry.all_methods())
def test_a_method_names_what_exists(name):
    method = registry.get_method(name)
    assert method.title
    assert get_scores(method.scores)
    for other in (*method.beside, *filter(None, [method.baseline])):
        assert registry.get_method(other) is not method
    assert method.Settings()


def test_no_two_methods_have_a_setting_of_one_name():
    owners = registry.owners()
    assert owners["epsilon"][0] == "pmal"
    assert owners["radius_weight"][0] == "arpl"


def test_a_method_that_does_not_exist_is_told():
    with pytest.raises(PmalError, match="arpl, control, ensemble, pmal, softmax"):
        registry.get_method("nosuch")


class TwoOptimizers(Trainable):
    """Two networks that are trained in turns, as one with a generator is."""

    def __init__(self):
        super().__init__("loss")
        self.first = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
        self.first.add(keras.layers.Dense(2))
        self.second = keras.models.clone_model(self.first)
        self.other = keras.optimizers.Adam(0.01)
        self.built = True

    @property
    def optimizers(self):
        return {"network": self.optimizer, "generator": self.other}

    def variables_of(self, optimizer):
        part = self.first if optimizer == "network" else self.second
        return part.trainable_variables

    def train_step(self, data):
        features, label = data
        image = tf.cast(features["image"], tf.float32) / 255
        for name, part in (("network", self.first), ("generator", self.second)):
            with tf.GradientTape() as tape:
                loss = keras.losses.sparse_categorical_crossentropy(
                    label, part(image), from_logits=True
                )
            gradients = tape.gradient(loss, self.variables_of(name))
            self.optimizers[name].apply(gradients, self.variables_of(name))
        parts = {"loss": loss, "logits": part(image)}
        return self._track(parts, label, None)


def test_checkpoints_hold_every_optimizer(tmp_path, rng):
    image = rng.integers(0, 255, (16, 8, 8, 3)).astype(np.uint8)
    ids = np.arange(16).astype(str)
    pipeline = TrainingPipeline(image, np.arange(16) % 2, ids, 8, 0, augment=False)
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.01)
    keras.utils.set_random_seed(0)
    model = TwoOptimizers()
    fit(model, pipeline, recipe, seed=0)
    save_checkpoint(model, tmp_path, 4)
    keras.utils.set_random_seed(1)
    again = TwoOptimizers()
    again.compile(optimizer=recipe.build_optimizer(2))
    again.build_optimizers()
    assert restore_newest(again, tmp_path) == 4
    for name in ("network", "generator"):
        for one, other in zip(
            [*model.variables_of(name), *model.optimizers[name].variables],
            [*again.variables_of(name), *again.optimizers[name].variables],
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
