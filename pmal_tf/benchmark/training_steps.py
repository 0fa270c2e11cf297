"""The steps that `benchmark.training` measures, made as training makes them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
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
from pmal_tf.training.softmax_model import SoftmaxModel

FEW_CLASSES, MANY_CLASSES = 6, 200
PROTOTYPES_PER_CLASS = PMALSettings.prototypes_per_class
# Of schedules; so many that the learning rate stays what it is.
_STEPS_PER_EPOCH = 10_000


@dataclass(frozen=True)
class Setting:
    """What all steps that are compared have in common.

    Attributes:
        backbone: A file of `pmal_tf.backbones.architectures`.
        batch_size: Training images in a step.
        precision: A Keras dtype policy.
        width: The backbone's width multiplier.
        image_size: Side of the square images in pixels.
    """

    backbone: str
    batch_size: int
    precision: str
    width: float
    image_size: int

    def __str__(self) -> str:
        return (
            f"{self.backbone}, width {self.width:g}, {self.image_size} x "
            f"{self.image_size} pixels, batch {self.batch_size}, {self.precision}"
        )

    @property
    def suffix(self) -> str:
        """What tells its measurements from those of others."""
        return f"_{self.backbone}_{self.batch_size}_{self.precision}"


@dataclass(frozen=True)
class Variant:
    """One way to take a step.

    Attributes:
        name: In the names of measurements.
        label: In tables.
        num_classes: Number K of known classes.
        prototype_mode: That of `PMALModel`; None for the softmax classifier.
        size: Prototypes that are fed in a step; None: all.
        xla: Whether the step is compiled with XLA; None: as the user asks.
    """

    name: str
    label: str
    num_classes: int = FEW_CLASSES
    prototype_mode: str | None = None
    size: int | None = None
    xla: bool | None = None


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
        self.model, self.batches, self.jit = model, batches, jit
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

    @property
    def fed(self) -> int:
        """Prototypes that come with every batch."""
        features, _ = self.batches.element_spec
        if "prototype_image" not in features:
            return 0
        return int(features["prototype_image"].shape[0])


def build_step(variant: Variant, setting: Setting, *, jit: bool) -> TrainingStep:
    """Makes a step with fresh weights; the first call compiles it.

    Weights are of the Keras dtype policy that is set: call this within `precision`.

    Args:
        variant: The way to take it.
        setting: What it is made of.
        jit: Whether to compile it with XLA, where the variant does not say.
    """
    keras.utils.set_random_seed(0)
    shape = (setting.image_size, setting.image_size, 3)
    classifier = build_classifier(
        setting.backbone, shape, variant.num_classes, width=setting.width
    )
    prototypes = random_prototypes(variant.num_classes, shape)
    batches = one_batch(setting.batch_size, variant.num_classes, shape)
    if variant.prototype_mode is None:
        model: keras.Model = SoftmaxModel(classifier)
    else:
        model = PMALModel(
            embedding_and_logits(classifier),
            PROTOTYPES_PER_CLASS,
            prototype_mode=variant.prototype_mode,
        )
        model.refresh_prototypes(prototypes.image, prototypes.mask)
        schedule = PrototypeSchedule(size=variant.size)
        batches = prototypes.attach(batches, schedule=schedule)
    recipe = Recipe(batch_size=setting.batch_size)
    model.compile(optimizer=recipe.build_optimizer(_STEPS_PER_EPOCH))
    # The scaling of losses in float16, where there is one, is around it by now.
    model.optimizer.build(model.trainable_variables)
    return TrainingStep(model, batches, jit=jit if variant.xla is None else variant.xla)


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

    It is one element that lies in memory and is handed on without a copy.

    Args:
        batch_size: Images in it.
        num_classes: Number K of classes.
        shape: (H, W, 3).

    Returns:
        Batches of `({"image", "example_index"}, label)`, none of them a prototype.
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


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Sets Keras's dtype policy, as long as the context is open."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
