"""Small prepared datasets in the form that TensorFlow Datasets writes and reads."""

import io

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image


def real_features(name):
    """Returns the features of a published dataset, as its builder declares them."""
    return tfds.builder(name, data_dir="/nonexistent").info.features


def encoded(pixels, kind="JPEG"):
    """Returns pixels, or an image of one colour and 16 x 20 pixels, as a file."""
    pixels = np.asarray(pixels, np.uint8)
    if pixels.ndim == 1:
        pixels = np.broadcast_to(pixels, (16, 20, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    buffer.seek(0)
    return buffer


def write_tfds(data_dir, name, splits, *, features=None, version="1.0.0", shards=1):
    """Writes a dataset as `prepare` would have left it.

    Args:
        data_dir: Folder of prepared datasets.
        name: Name of the dataset.
        splits: Examples by name of split, in the order in which they are stored. An
            image is an array, or a file object, whose bytes are stored as they are.
        features: Their features; None: those of the published dataset of that name.
        version: Version to write.
        shards: How many files the examples of a split are spread over.

    Returns:
        The folder, `<data_dir>/<name>/<version>`.
    """
    features = tfds.features.FeaturesDict(features or real_features(name))
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, filetype_suffix="tfrecord"
    )
    infos = []
    for split, examples in splits.items():
        parts = np.array_split(np.arange(len(examples)), shards)
        for shard, part in enumerate(parts):
            file = f"{name}-{split}.tfrecord-{shard:05}-of-{shards:05}"
            with tf.io.TFRecordWriter(str(folder / file)) as writer:
                for position in part:
                    example = features.encode_example(examples[position])
                    writer.write(features.serialize_example(example))
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(part) for part in parts],
                num_bytes=0,
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        filename_template=template,
        check_data=False,
    )
    return folder
