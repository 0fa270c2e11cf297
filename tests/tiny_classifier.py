"""A network of few operations, and images for it, for tests of what trains."""

import keras
import numpy as np

from pmal_tf.data.batches.pipeline import TrainingPipeline

layers = keras.layers


def tiny_classifier(dropout=0.2, filters=4):
    """From [batch, 8, 8, 3] images to 3 logits, with what training must care about."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 255)(image)
    for number in (1, 2):
        x = layers.SpatialDropout2D(dropout)(x)
        x = layers.Conv2D(filters, 3, 2, use_bias=False, name=f"conv_{number}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"norm_{number}")(x))
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


def tiny_pipeline(count, *, augment):
    """Batches of 8 of `count` noise images of 3 classes, in turn."""
    rng = np.random.default_rng(0)
    return TrainingPipeline(
        image=rng.integers(0, 256, size=(count, 8, 8, 3)).astype(np.uint8),
        label=np.arange(count) % 3,
        example_id=np.arange(count).astype(str),
        batch_size=8,
        seed=5,
        augment=augment,
    )
