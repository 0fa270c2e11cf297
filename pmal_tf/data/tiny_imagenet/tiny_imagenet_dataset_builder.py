"""The TensorFlow Datasets builder that prepares Tiny ImageNet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow_datasets as tfds

from pmal_tf.data.tiny_imagenet import wnids
from pmal_tf.data.tiny_imagenet.archive import ZIP_NAME, read_images, read_layout

_DESCRIPTION = """\
Tiny ImageNet has 200 classes of ImageNet with 500 training and 50 test images each, of
64x64 pixels. `test` is the official validation set; the official test set has no
labels. Labels number the WordNet ids in sorted order. Some images are grey.
"""


class Builder(tfds.core.GeneratorBasedBuilder):
    """Tiny ImageNet, read from the official zip in the folder of manual downloads."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The official training and validation images."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The folder should contain {ZIP_NAME}."

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the examples."""
        features = {
            # The size is left open: what the zip holds is kept as it is.
            "image": tfds.features.Image(
                shape=(None, None, 3), encoding_format="jpeg", doc="RGB when decoded."
            ),
            "label": tfds.features.ClassLabel(names=list(wnids())),
            "name": tfds.features.Text(doc="First words for the class: goldfish."),
            "file_name": tfds.features.Text(doc="n01443537_0.JPEG or val_0.JPEG."),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        """Returns the examples of each split."""
        path = Path(dl_manager.manual_dir) / ZIP_NAME
        layout = read_layout(path)
        return {
            "train": self._generate_examples(path, layout.train, layout.words),
            "test": self._generate_examples(path, layout.test, layout.words),
        }

    def _generate_examples(
        self, path: Path, images: dict[str, str], words: dict[str, str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields a key, which decides the stored order, and an example."""
        contents = read_images(path, images)
        for (member, wnid), content in zip(images.items(), contents, strict=True):
            file_name = PurePosixPath(member).name
            yield (
                file_name,
                {
                    "image": io.BytesIO(content),
                    "label": wnid,
                    "name": words[wnid],
                    "file_name": file_name,
                },
            )
