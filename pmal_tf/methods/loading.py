"""Loading any model file that a method has written."""

from __future__ import annotations

# Keras finds classes that are registered, and importing them registers them.
from pmal_tf.backbones import layers as _layers  # noqa: F401
from pmal_tf.backbones import whitening as _whitening  # noqa: F401
from pmal_tf.backbones.build import load_model
from pmal_tf.methods.pmal import model as _model  # noqa: F401
from pmal_tf.training import optimizers as _optimizers  # noqa: F401
from pmal_tf.training import schedules as _schedules  # noqa: F401

__all__ = ["load_model"]
