"""What mining knows of the training images: how each model sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pmal_tf.mining.points import check_spaces, chunks
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

    def check(self, number: int, num_classes: int) -> None:
        """Checks shapes and numbers.

        Args:
            number: How errors call this space.
            num_classes: K.

        Raises:
            PmalError: If arrays do not fit together, or a number is not finite.
        """
        kernel, bias = np.asarray(self.kernel), np.asarray(self.bias)
        check_spaces([np.asarray(self.embedding)], [kernel], first=number)
        if kernel.shape[1] != num_classes or bias.shape != (num_classes,):
            raise PmalError(
                f"With {num_classes} class names, a head has a kernel "
                f"[D, {num_classes}] and a bias [{num_classes}]. Received: "
                f"{kernel.shape} and {bias.shape} in space {number}"
            )
        if not np.isfinite(bias).all():
            raise PmalError(
                "Biases must be finite numbers; the model they come from has diverged. "
                f"Received: NaN or infinity in space {number}"
            )

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the embeddings in parts, as float64."""
        for where, part in chunks(self.embedding):
            yield where, np.asarray(part, np.float64)

    def logits(self, embedding: np.ndarray) -> np.ndarray:
        """Returns [n, K] float64 logits of [n, D] embeddings."""
        return embedding @ np.asarray(self.kernel, np.float64) + self.bias


def log_probability(logits: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the probability of each sample's own class.

    Args:
        logits: [..., n, K].
        class_index: [n] in [0, K).

    Returns:
        [..., n], at most 0; exact where the probability rounds to 1.
    """
    largest = logits.max(axis=-1)
    shifted = logits - largest[..., None]
    own = np.take_along_axis(
        shifted, np.broadcast_to(class_index[:, None], (*logits.shape[:-1], 1)), axis=-1
    )[..., 0]
    # log sum = log1p of the other classes' terms, which may be as small as 1e-300.
    others = np.exp(shifted)
    np.put_along_axis(others, shifted.argmax(axis=-1)[..., None], 0.0, axis=-1)
    return own - np.log1p(others.sum(axis=-1))
