"""The steps that `benchmark.training` measures, made as training makes them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes, PrototypeSchedule
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.runtime.errors import TrainingDivergedError
from pmal_tf.training.loop import execution
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.trainable import SoftmaxModel

FEW_CLASSES, MANY_CLASSES = 6, 200
PROTOTYPES_PER_CLASS = PMALSettings.prototypes_per_class
# Of schedules; so many that the learning rate stays what it is.
_STEPS_PER_EPOCH = 10_000


@dataclass(frozen=True)
class Setting:
    """What all steps that are compared have in common."""

    backbone: str
    batch_size: int
    precision: str
    width: float
    image_size: int


@dataclass(frozen=True)
class Variant:
    """One way to take a step.

    Attributes:
        name: In the names of measurements.
        title: In tables.
        num_classes: Number K of known classes.
        prototype_mode: That of `PMALModel`; empty for the softmax classifier.
        fed: Prototypes that come with every batch.
        jit: Whether the step is compiled with XLA.
    """

    name: str
    title: str
    num_classes: int = FEW_CLASSES
    prototype_mode: str = ""
    fed: int = 0
    jit: bool = True

    @property
    def label(self) -> str:
        """Returns e.g. `PMAL, joint, K = 6, XLA`."""
        graph = "XLA" if self.jit else "plain graph"
        return f"{self.title}, K = {self.num_classes}, {graph}"


class TrainingStep:
    """Takes one training step at each call, by the function that training calls.

    Like the loop, it reads the metrics after each step, which waits for the device.

    Args:
        model: A compiled model whose optimiser is built.
        batches: What it is fed, without end.
        jit: Whether to compile the step with XLA.
    """

    def __init__(
        self, model: keras.Model, batches: tf.data.Dataset, *, jit: bool
    ) -> None:
        self.model, self.batches = model, batches
        self._execute = execution(model, seed=0, jit=jit)
        self._iterator = iter(batches)
        self._numbers = itertools.count()

    def __call__(self) -> dict[str, float]:
        """Takes a step; returns the running means of the losses.

        Raises:
            TrainingDivergedError: If it leaves a weight that is not finite.
        """
        number = next(self._numbers)
        broken, results = self._execute(
            self._iterator, tf.constant(number), tf.constant(1)
        )
        logs = {name: float(value) for name, value in results.items()}
        if int(broken) >= 0:
            raise TrainingDivergedError(
                "A measured step must leave finite weights. Received: one that is not "
                f"after step {number + 1}. Measure in another --precision."
            )
        return logs


def build_step(variant: Variant, setting: Setting) -> TrainingStep:
    """Makes a step of fresh weights in the dtype policy that is set; compiles later."""
    keras.utils.set_random_seed(0)
    shape = (setting.image_size, setting.image_size, 3)
    classifier = build_classifier(
        setting.backbone, shape, variant.num_classes, width=setting.width
    )
    prototypes = random_prototypes(variant.num_classes, shape)
    batches = one_batch(setting.batch_size, variant.num_classes, shape)
    if variant.prototype_mode:
        model: keras.Model = PMALModel(
            embedding_and_logits(classifier),
            PROTOTYPES_PER_CLASS,
            prototype_mode=variant.prototype_mode,
        )
        model.refresh_prototypes(prototypes.image, prototypes.mask)
        schedule = PrototypeSchedule(size=variant.fed)
        batches = prototypes.attach(batches, schedule=schedule)
    else:
        model = SoftmaxModel(classifier)
    recipe = Recipe(batch_size=setting.batch_size)
    model.compile(optimizer=recipe.build_optimizer(_STEPS_PER_EPOCH))
    # The scaling of losses in float16, where there is one, is around it by now.
    model.optimizer.build(model.trainable_variables)
    return TrainingStep(model, batches, jit=variant.jit)


def random_prototypes(num_classes: int, shape: tuple[int, int, int]) -> Prototypes:
    """Returns noise as prototypes, T of each class, whose ids are their positions."""
    mask = np.ones((num_classes, PROTOTYPES_PER_CLASS), bool)
    rng = np.random.default_rng(1)
    return Prototypes(
        image=rng.integers(0, 256, (*mask.shape, *shape), np.uint8),
        mask=mask,
        example_id=np.arange(mask.size).astype(str).reshape(mask.shape),
        robustness=np.ones(mask.shape),
    )


def one_batch(
    batch_size: int, num_classes: int, shape: tuple[int, int, int]
) -> tf.data.Dataset:
    """Returns a batch of noise as `TrainingPipeline` gives them, again and again.

    It is one element `({"image", "example_index"}, label)` that lies in memory and is
    handed on without a copy; none of its images is a prototype.
    """
    rng = np.random.default_rng(0)
    first = num_classes * PROTOTYPES_PER_CLASS
    features = {
        "image": rng.integers(0, 256, (batch_size, *shape), np.uint8),
        "example_index": np.arange(first, first + batch_size),
    }
    label = rng.integers(0, num_classes, batch_size)
    # Asleep, the tuner's thread would hold up the end of every iterator.
    options = tf.data.Options()
    options.autotune.enabled = False
    batch = tf.data.Dataset.from_tensors((features, label))
    return batch.repeat().with_options(options)
