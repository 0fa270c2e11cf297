"""Tiny ImageNet (Le and Yang 2015), in the form of a dataset of TensorFlow Datasets.

Importing the package is cheap: the builder, which needs TensorFlow, is a module of its
own.
"""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def wnids() -> tuple[str, ...]:
    """Returns the WordNet ids of the 200 classes, sorted: label 3 is the fourth.

    The zip's own `wnids.txt` lists the same ids in another order, and published class
    lists number them in either way; the id alone says which class is meant.
    """
    file = resources.files("pmal_tf.data.tiny_imagenet") / "wnids.txt"
    return tuple(file.read_text(encoding="utf-8").split())
