"""SVHN (Netzer et al. 2011): 32x32 photographs of house numbers, without `extra`.

Label 10 of the original files is digit 0 here, as in TensorFlow Datasets. Digits are
not mirror invariant, so images are not augmented by default.
"""

from __future__ import annotations

from pmal_tf.data.datasets.small_images import DIGITS, small_dataset

DATASETS = (small_dataset("svhn", DIGITS, natural=False, tfds_name="svhn_cropped"),)
