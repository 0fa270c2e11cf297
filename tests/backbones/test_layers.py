"""The parts of backbones, against what they stand in for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.backbones.layers import (
    FusedBatchNormalization,
    IdentityConvolution,
    SigmoidGELU,
)


@pytest.mark.parametrize("scale", [True, False])
def test_fused_batch_norm_is_keras_s_in_training_and_inference(scale, rng):
    images = rng.normal(2.0, 3.0, (6, 5, 4, 7)).astype(np.float32)
    options = {"scale": scale, "momentum": 0.6, "epsilon": 1e-3}
    fused, plain = FusedBatchNormalization(**options), None
    plain = keras.layers.BatchNormalization(**options)
    results = []
    for layer in (fused, plain):
        layer.build(images.shape)
        layer.beta.assign(np.arange(7.0))
        if scale:
            layer.gamma.assign(np.arange(1.0, 8.0))
        with tf.GradientTape() as tape:
            tape.watch(given := tf.constant(images))
            outputs = layer(given, training=True)
            loss = tf.reduce_sum(outputs**3)
        gradients = tape.gradient(loss, [given, *layer.trainable_weights])
        results.append([outputs, layer(images, training=False), *gradients])
    count = 6 * 5 * 4
    np.testing.assert_allclose(fused.moving_mean, plain.moving_mean, atol=1e-5)
    # 0.6 of the first, which is 1, and 0.4 of the batch's, by count - 1 and by count.
    ours, keras_s = (layer.moving_variance.numpy() for layer in (fused, plain))
    np.testing.assert_allclose(
        (ours - 0.6) * (count - 1) / count, keras_s - 0.6, rtol=1e-4
    )
    fused.moving_variance.assign(plain.moving_variance)
    results[0][1] = fused(images, training=False)
    for ours, keras_s in zip(*results, strict=True):
        np.testing.assert_allclose(ours, keras_s, rtol=2e-3, atol=2e-2)


def test_fused_batch_norm_in_half_precision_and_float64(dtype_policy, rng):
    images = rng.normal(size=(4, 3, 3, 2))
    for policy, expected in (("mixed_bfloat16", "bfloat16"), ("float64", "float64")):
        dtype_policy(policy)
        layer = FusedBatchNormalization()
        outputs = layer(images, training=True)
        assert outputs.dtype == expected
        mean = np.asarray(tf.cast(outputs, tf.float32)).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(mean, 0.0, atol=0.02)


def test_sigmoid_gelu_is_near_gelu():
    points = np.linspace(-8, 8, 2001).astype(np.float32)
    exact = keras.activations.gelu(points, approximate=False)
    gap = np.abs(SigmoidGELU()(points) - exact)
    assert 0.019 < gap.max() < 0.021


def test_convolutions_start_as_the_identity():
    keras.utils.set_random_seed(0)
    layer = keras.layers.Conv2D(
        7, 3, padding="same", use_bias=False, kernel_initializer=IdentityConvolution()
    )
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    outputs = layer(images).numpy()
    np.testing.assert_array_equal(outputs[..., :4], images)
    drawn = layer.kernel.numpy()[..., 4:]
    bound = 1 / np.sqrt(9 * 4)
    assert np.abs(drawn).max() <= bound
    assert drawn.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    # Fewer filters than channels: the first channels pass.
    fewer = np.asarray(IdentityConvolution()((3, 3, 4, 2)))
    assert fewer.sum() == 2
    assert fewer[1, 1, 0, 0] == fewer[1, 1, 1, 1] == 1
