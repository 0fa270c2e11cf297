"""Tiny ImageNet (Le and Yang 2015); the builder of TFDS is a module of its own."""

from pmal_tf.data.class_lists import class_names

ZIP_NAME = "tiny-imagenet-200.zip"
# The WordNet ids of the 200 classes, sorted: label 3 is the fourth. The zip's own
# `wnids.txt` lists the same ids in another order, and published class lists number them
# in either way; the id alone says which class is meant.
WNIDS = class_names("tiny_imagenet_wnids.txt")
