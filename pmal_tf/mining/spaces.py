"""The training images as each model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pmal_tf.mining.points import chunks
from pmal_tf.runtime.errors import PmalError


@dataclass(frozen=True)
class Space:
    """The embedding space of one model with its linear head.

    Attributes:
        embedding: [N, D] embeddings of the training images, in memory or on disk.
        kernel: [D, K] weights of the head.
        bias: [K] biases of the head.
    """

    embedding: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the embeddings in parts, as float64."""
        for where, part in chunks(self.embedding):
            yield where, np.asarray(part, np.float64)

    def logits(self, embedding: np.ndarray) -> np.ndarray:
        """Returns [n, K] float64 logits of [n, D] embeddings."""
        return embedding @ np.asarray(self.kernel, np.float64) + self.bias


def check_spaces(
    embeddings: Sequence[np.ndarray], kernels: Sequence[np.ndarray]
) -> None:
    """Checks that U arrays are [N, D_u], as many [D_u, K], and all numbers finite.

    Raises:
        PmalError: If not.
    """
    types = {array.dtype for array in (*embeddings, *kernels)}
    if not {dtype.kind for dtype in types} <= set("fiub"):
        raise PmalError(
            "Embeddings and kernels must be arrays of real numbers. Received: number "
            f"types {sorted(map(str, types))}"
        )
    shapes = [(z.shape, w.shape) for z, w in zip(embeddings, kernels, strict=True)]
    # [N, D_u] and [D_u, K] of every space.
    fits = all(len(z) == len(w) == 2 and z[1] == w[0] for z, w in shapes)
    if not fits or len({(z[0], w[1]) for z, w in shapes}) > 1 or not shapes[0][0][0]:
        raise PmalError(
            "Embeddings must be [N, D_u] and kernels [D_u, K], with the same N and K "
            f"in every space. Received: (embeddings, kernel) shapes {shapes}"
        )
    classes = shapes[0][1][1]
    if classes < 2:
        raise PmalError(
            "Distances come from how logits of classes differ: at least 2 classes are "
            f"needed. Received: kernels of {classes} class"
        )
    for number, (embedding, kernel) in enumerate(zip(embeddings, kernels, strict=True)):
        broken = [
            int(row) + where.start
            for where, part in chunks(embedding)
            for row in np.flatnonzero(~np.isfinite(part).all(axis=1))
        ]
        if broken or not np.isfinite(kernel).all():
            rows = f"rows {broken[:10]} ({len(broken)} in all)"
            place = f"in space {number}, {rows if broken else 'its kernel'}"
            raise diverged("Embeddings and kernels", place)


def diverged(what: str, place: str) -> PmalError:
    """Returns the error of numbers that are not finite."""
    return PmalError(
        f"{what} must be finite numbers; the model they come from has diverged. "
        f"Received: NaN or infinity {place}"
    )
