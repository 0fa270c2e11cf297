"""TinyImageNet; `pmal_tf.data.tiny_imagenet` has all of it."""

from __future__ import annotations

from pmal_tf.data.tiny_imagenet import source

DATASETS = (source.DATASET,)
