"""MNIST (LeCun et al. 1998): 28x28 grey digits, resized to 32x32 RGB."""

from __future__ import annotations

from pmal_tf.data.datasets.small_images import DIGITS, small_dataset

DATASETS = (small_dataset("mnist", DIGITS, natural=False, id_feature=None),)
