"""Open set recognition by Prototype Mining And Learning (PMAL, AAAI 2022).

Importing this package does not import TensorFlow; the names below do, on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pmal_tf.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from pmal_tf.estimator import OpenSetClassifier as OpenSetClassifier
    from pmal_tf.estimator import PMALClassifier as PMALClassifier
    from pmal_tf.methods.loading import load_model as load_model
    from pmal_tf.methods.pmal.model import PMALModel as PMALModel
    from pmal_tf.methods.pmal.prototypes import Prototypes as Prototypes
    from pmal_tf.mining.mine import mine as mine
    from pmal_tf.mining.robustness import topology_robustness as topology_robustness
    from pmal_tf.mining.settings import MiningSettings as MiningSettings
    from pmal_tf.mining.spaces import Space as Space
    from pmal_tf.results.calibration import conformal_threshold as conformal_threshold
    from pmal_tf.runtime.errors import PmalError as PmalError
    from pmal_tf.serving.export import export_saved_model as export_saved_model
    from pmal_tf.training.recipe import Recipe as Recipe

_HOME = {
    "MiningSettings": "pmal_tf.mining.settings",
    "OpenSetClassifier": "pmal_tf.estimator",
    "PMALClassifier": "pmal_tf.estimator",
    "PMALModel": "pmal_tf.methods.pmal.model",
    "PmalError": "pmal_tf.runtime.errors",
    "Prototypes": "pmal_tf.methods.pmal.prototypes",
    "Recipe": "pmal_tf.training.recipe",
    "Space": "pmal_tf.mining.spaces",
    "conformal_threshold": "pmal_tf.results.calibration",
    "export_saved_model": "pmal_tf.serving.export",
    "load_model": "pmal_tf.methods.loading",
    "mine": "pmal_tf.mining.mine",
    "topology_robustness": "pmal_tf.mining.robustness",
}

__all__ = ["__version__", *_HOME]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
