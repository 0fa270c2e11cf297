"""A network of few operations, for tests of what is done with networks."""

import keras

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
