"""Optimisers with weight decay as PyTorch's did it in the paper's time."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class _CoupledWeightDecay:
    """Adds `coupled_weight_decay * variable` to each gradient before the update.

    Keras's own `weight_decay` shrinks the variable beside the update (AdamW). In the
    `Adam(weight_decay=...)` of PyTorch, which the paper's recipe names, the decay is
    part of the gradient and so passes through the moments. All trainable variables take
    part, biases and BatchNorm included, as they do there.
    """

    coupled_weight_decay: float

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable from its gradient plus the decay."""
        decay = tf.cast(self.coupled_weight_decay, gradient.dtype)
        gradient += decay * tf.cast(tf.convert_to_tensor(variable), gradient.dtype)
        super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()  # type: ignore[misc]
        return {**config, "coupled_weight_decay": self.coupled_weight_decay}


@keras.saving.register_keras_serializable("pmal_tf")
class CoupledAdam(_CoupledWeightDecay, keras.optimizers.Adam):
    """Adam with coupled L2.

    Args:
        coupled_weight_decay: Factor of the variable in the gradient.
        **kwargs: Passed to `keras.optimizers.Adam`.
    """

    def __init__(self, coupled_weight_decay: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.coupled_weight_decay = coupled_weight_decay


@keras.saving.register_keras_serializable("pmal_tf")
class CoupledSGD(_CoupledWeightDecay, keras.optimizers.SGD):
    """SGD with momentum and coupled L2.

    Args:
        coupled_weight_decay: Factor of the variable in the gradient.
        **kwargs: Passed to `keras.optimizers.SGD`.
    """

    def __init__(self, coupled_weight_decay: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.coupled_weight_decay = coupled_weight_decay
