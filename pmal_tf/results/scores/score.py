"""What a score declares: its names, its range, what it needs, and its two forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

# float32's largest number, the end of a scale that has none of its own.
LARGEST = float(np.finfo(np.float32).max)

# What a model says of n images, by name: `logits` [n, K], and where a model has them
# `embedding` [n, D] and `distance` [n, K]; and the same in a graph.
Arrays: TypeAlias = Mapping[str, np.ndarray]
Tensor: TypeAlias = "tf.Tensor"
Tensors: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of how unknown an image is; larger is more likely unknown.

    Evaluation computes it with NumPy in float64, an exported model with TensorFlow in
    float32; tests hold the two to each other.

    Attributes:
        name: What `--scores` and `--rule` call it.
        field: What files call it.
        title: What tables call it.
        meaning: What it is, for people, without an article.
        values: From the outputs of n images and the statistics to [n] float64.
        tensor: The same in a graph, to [n] float32.
        needs: Which outputs of a model it is computed from: some of `logits`,
            `embedding`, `distance`.
        low: Least threshold that means anything.
        high: Largest.
        unreadable: What an image that cannot be read has; no other has more.
        is_distance: Whether it is on the scale of `distance`. `high` and `unreadable`
            are then those of a cosine; a method whose distances end elsewhere has its
            own end in their place.
        statistics: From the outputs of the training images and their [N] classes to
            arrays by name, for a score that is measured against them.
    """

    name: str
    field: str
    title: str
    meaning: str
    values: Callable[[Arrays, Arrays], np.ndarray]
    tensor: Callable[[Tensors, Tensors], Tensor]
    needs: tuple[str, ...] = ("logits",)
    low: float = -LARGEST
    high: float = LARGEST
    unreadable: float = LARGEST
    is_distance: bool = False
    statistics: Callable[[Arrays, np.ndarray], dict[str, np.ndarray]] | None = None
