"""Settings of the network."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, replace

from pmal_tf.backbones import architectures
from pmal_tf.runtime.settings import Interval, check_settings, setting


def backbone_names() -> tuple[str, ...]:
    """Returns the names of the backbones: the files of `architectures/`, not loaded."""
    return tuple(module.name for module in pkgutil.iter_modules(architectures.__path__))


@dataclass(frozen=True)
class NetworkSettings:
    """Network."""

    backbone: str = setting(
        "oscri", "Backbone network.", allowed=backbone_names(), common=True
    )
    init_weights: str = setting(
        "",
        "Keras model (.keras) to start from in place of a fresh backbone: functional, "
        "takes RGB images on the 0-255 scale, and its last layer, which is replaced, "
        "is linear. --backbone, --width and --dropout do not matter then.",
        common=True,
    )
    width: float = setting(
        1.0,
        "Multiplier of the backbone's channels.",
        allowed=Interval(low=0, open_low=True),
        common=True,
    )
    dropout: float = setting(
        0.2,
        "Dropout rate of the backbone.",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    precision: str = setting(
        "float32",
        "Number type of the backbone's arithmetic; auto: mixed_bfloat16 where this CPU "
        "or all GPUs compute in it, else float32.",
        allowed=("auto", "float32", "float64", "mixed_bfloat16", "mixed_float16"),
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def resolved(self) -> NetworkSettings:
        """Returns the settings with `auto` replaced by what it is on this machine."""
        from pmal_tf.runtime.precision import resolve_precision

        return replace(self, precision=resolve_precision(self.precision))
