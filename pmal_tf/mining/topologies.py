"""Forms of Eq. 7: how an image's topologies in two spaces are compared.

The topology of an image i in space u is the vector of its distances to all N images,
t_u = (d_u(i, 1), ..., d_u(i, N)). Every form is a mean square of differences between
two topologies that were made comparable first,

    x = mean_j (s_1j - s_2j)^2,

and an exponent e that grows with it; r = exp(-e).

    correlation  s_u = (t_u - mean) / standard deviation,
                 e = x / 2 = 1 - Pearson(t_1, t_2)              in [0, 2]
    chord        s_u = t_u / root mean square,
                 e = sqrt(x) = |t_1 / |t_1| - t_2 / |t_2||      in [0, sqrt 2]
    rms          s_u = t_u, e = sqrt(x)                         in [0, inf)
    literal      s_u = t_u, e = sqrt(N x), Eq. 7 as printed     in [0, inf)

The last two are the paper's. They ask for equal distances, so that they grow with the
length of an image's logits, and tell spaces apart that differ by a factor alone. The
first two do neither.

The distance of an image to itself counts, as in the paper's definition of t(z_i). It is
0 in every space: nothing is added to x but under correlation, where the covariance of
the N - 1 other distances gains the product of their means, divided by N. So 1 - Pearson
shrinks by a share of mean^2 / (N variance) at most, alike for all images, 1e-3 where
N = 5,000 distances vary by half of their mean. And a topology is constant only where
all images coincide in a space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Topology:
    """One form.

    Attributes:
        scale_free: s_u is divided by its root mean square.
        centred: Before that, its mean is taken off.
        summed: e is of the sum of squares, not their mean.
    """

    scale_free: bool = False
    centred: bool = False
    summed: bool = False

    @property
    def sums(self) -> int:
        """How many sums over all images the form needs, see `mean_squares`."""
        return 3 if self.centred else 1

    def mean_squares(
        self, sums: np.ndarray, squares: tuple[np.ndarray, np.ndarray], count: int
    ) -> np.ndarray:
        """Returns [n] x, from sums over all images.

        With A = |t_1| / sqrt(N) and B = |t_2| / sqrt(N),

            |t_1 / A - t_2 / B|^2 / N = (|t_1 - t_2|^2 / N - (A - B)^2) / (A B),

        and the same for centred topologies, as |t - mean|^2 = |t|^2 - N mean^2. So
        nothing of the order of the distances cancels but in A and B: with spaces of one
        scale, a small x is a difference of numbers that are small themselves, while
        1 - A B of products would leave rounding of order 1.

        Args:
            count: N.
            sums: [1, n] sums of (t_1 - t_2)^2; for a centred form [3, n], those of t_1
                and of t_2 as well.
            squares: [n] sums of t_1^2, and of t_2^2.
        """
        mean_square = sums[0] / count
        if not self.scale_free:
            return mean_square
        near, far = (own / count for own in squares)
        if self.centred:
            near_mean, far_mean = sums[1:] / count
            mean_square = mean_square - (near_mean - far_mean) ** 2
            near, far = near - near_mean**2, far - far_mean**2
        # Rounding may leave a little less than 0.
        tiny = np.finfo(np.float64).tiny
        a, b = (np.sqrt(np.maximum(own, tiny)) for own in (near, far))
        return np.clip((mean_square - (a - b) ** 2) / (a * b), 0.0, 4.0)

    def estimates(
        self, near: tf.Tensor, far: tf.Tensor, apart: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Estimates x from distances to M of the images.

        Means are weighted ones over the M. To first order the estimate of x differs
        from x by a weighted mean of the influences: of a plain mean, its terms; with
        s_u of mean square 1, and mean 0 if it is centred,

            (s_1j - s_2j)^2 - x (s_1j^2 + s_2j^2) / 2,

        the influence function of 2 (1 - Pearson), to which A, B and the means do not
        add otherwise.

        Args:
            near: [n, M] distances in one space.
            far: [n, M] distances in the other.
            apart: [n, M] 0 where both are 0 whatever rounding made of them, else 1.
            weight: [M], sum 1.

        Returns:
            [n] estimates and [n, M] influences. Distances that are all equal, to so
            few images, count as zeros.
        """
        if not self.scale_free:
            squares = apart * (near - far) ** 2
            return tf.linalg.matvec(squares, weight), squares
        near, far = (self._normalised(apart * t, weight) for t in (near, far))
        squares = (near - far) ** 2
        mean = tf.linalg.matvec(squares, weight)
        return mean, squares - mean[:, None] * (near**2 + far**2) / 2.0

    def _normalised(self, topology: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Returns [n, M] s_u of t_u, by weighted means; zeros stay zeros."""
        if self.centred:
            topology -= tf.linalg.matvec(topology, weight)[:, None]
        mean_square = tf.linalg.matvec(topology**2, weight)[:, None]
        return tf.math.divide_no_nan(topology, tf.sqrt(mean_square))

    def exponents(
        self, mean_square: np.ndarray, variance: np.ndarray, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns [N] e and its standard errors, from x and the variances of x.

        `scale` is a factor of e. By the delta method, d sqrt(x) = dx / (2 sqrt(x)).
        """
        if self.centred:
            return scale * mean_square / 2.0, scale * np.sqrt(variance) / 2.0
        root = np.sqrt(mean_square)
        error = np.zeros_like(root)
        np.divide(scale * np.sqrt(variance), 2.0 * root, out=error, where=root != 0.0)
        return scale * root, error


# By the value of `--topology`.
TOPOLOGIES = {
    "correlation": Topology(scale_free=True, centred=True),
    "chord": Topology(scale_free=True),
    "rms": Topology(),
    "literal": Topology(summed=True),
}
