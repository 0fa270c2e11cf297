"""Settings of the network."""

from __future__ import annotations

import ast
import functools
import pkgutil
from dataclasses import dataclass, replace
from pathlib import Path

from pmal_tf.backbones import architectures
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import Interval, check_settings, setting

# Stands for a rate that depends on the backbone.
_OWN_DROPOUT = -1.0


def backbone_names() -> tuple[str, ...]:
    """Returns the names of the backbones: the files of `architectures/`, not loaded."""
    return tuple(module.name for module in pkgutil.iter_modules(architectures.__path__))


@functools.cache
def dropout_of(backbone: str) -> float:
    """Returns the dropout rate that a backbone's function has by default.

    It is read in the source, since to import the file would load TensorFlow.

    Raises:
        PmalError: If the function declares none.
    """
    file = Path(architectures.__path__[0], f"{backbone}.py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == backbone:
            defaults = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            for argument, default in defaults:
                value = default.value if isinstance(default, ast.Constant) else None
                if argument.arg == "dropout" and isinstance(value, int | float):
                    return float(value)
    raise PmalError(
        "A backbone must be a function called like its file, with a keyword `dropout` "
        f"whose default is a plain number. Received: {file}"
    )


@dataclass(frozen=True)
class NetworkSettings:
    """Network.

    Raises:
        PmalError: If a value is not allowed.
    """

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
        _OWN_DROPOUT,
        "Dropout rate of the backbone; -1 for the one that its authors gave it.",
        allowed=Interval(low=-1, high=1, open_high=True),
    )
    precision: str = setting(
        "float32",
        "Number type of the backbone's arithmetic; auto: mixed_bfloat16 where this CPU "
        "or all GPUs compute in it, else float32. To go on with a run on another kind "
        "of machine, name the one that it has.",
        allowed=("auto", "float32", "float64", "mixed_bfloat16", "mixed_float16"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dropout == _OWN_DROPOUT:
            object.__setattr__(self, "dropout", dropout_of(self.backbone))
        elif self.dropout < 0:
            raise PmalError(
                "`dropout` must be a share from 0 to below 1, or -1. Received: "
                f"dropout={self.dropout}"
            )

    def resolved(self) -> NetworkSettings:
        """Returns the settings with `auto` replaced by what it is on this machine."""
        from pmal_tf.runtime.precision import resolve_precision

        return replace(self, precision=resolve_precision(self.precision))
