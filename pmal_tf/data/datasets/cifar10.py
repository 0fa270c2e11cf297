"""CIFAR-10 (Krizhevsky 2009): 32x32 colour photographs of ten classes."""

from __future__ import annotations

from pmal_tf.data.datasets.small_images import small_dataset

CLASS_NAMES = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split()
)

DATASETS = (small_dataset("cifar10", CLASS_NAMES, natural=True),)
