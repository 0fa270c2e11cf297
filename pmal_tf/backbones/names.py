"""The names of the backbones: the files of `architectures/`, not loaded yet."""

from __future__ import annotations

import pkgutil

from pmal_tf.backbones import architectures


def backbone_names() -> tuple[str, ...]:
    """Returns the names that `--backbone` may have."""
    return tuple(module.name for module in pkgutil.iter_modules(architectures.__path__))
