"""The TensorFlow Datasets builder that prepares Tiny ImageNet from its official zip."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow_datasets as tfds

from pmal_tf.data.tiny_imagenet import WNIDS, ZIP_NAME
from pmal_tf.runtime.errors import PmalError, first_line

_DESCRIPTION = """\
Tiny ImageNet has 200 classes of ImageNet with 500 training and 50 test images each, of
64x64 pixels. `test` is the official validation set; the official test set has no
labels. Labels number the WordNet ids in sorted order. Some images are grey.
"""
_TOP = "tiny-imagenet-200/"
_VALIDATION = f"{_TOP}val/images/"
_LISTS = [_TOP + name for name in ("wnids.txt", "words.txt", "val/val_annotations.txt")]


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
            "label": tfds.features.ClassLabel(names=list(WNIDS)),
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
        *splits, words = self.read_layout(path)
        return {
            name: self._generate_examples(path, images, words)
            for name, images in zip(("train", "test"), splits, strict=True)
        }

    def _generate_examples(
        self, path: Path, images: dict[str, str], words: dict[str, str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields a key, which decides the stored order, and an example."""
        with _opened(path) as archive:
            for member, wnid in images.items():
                file_name = PurePosixPath(member).name
                example = {
                    "image": io.BytesIO(archive.read(member)),
                    "label": wnid,
                    "name": words[wnid],
                    "file_name": file_name,
                }
                yield file_name, example

    @staticmethod
    def read_layout(path: Path) -> tuple[dict[str, str], ...]:
        """Reads which images the zip holds, and of which class each one is.

        Returns:
            The class (its wnid) of each training image, by path in the zip, sorted;
            the same of the official validation images, which are the test images; and
            the first words for each class, such as `goldfish`.

        Raises:
            PmalError: If it is no zip, or lacks anything that the official one has.
                Fewer images per class are no error.
        """
        with _opened(path) as archive:
            members = sorted(archive.namelist())
            _check(path, "files", _LISTS, set(members).intersection(_LISTS))
            wnids, words, annotations = (
                archive.read(name).decode("utf-8").splitlines() for name in _LISTS
            )
        listed = {line.strip() for line in wnids if line.strip()}
        _check(path, "wnids.txt", WNIDS, listed)

        # train/<wnid>/images/<file>.JPEG
        parts = {name: name.removeprefix(_TOP).split("/") for name in members}
        train = {
            name: folders[1]
            for name, folders in parts.items()
            if folders[0] == "train" and name.endswith(".JPEG") and len(folders) == 4
        }
        _check(path, "classes of training images", WNIDS, train.values())

        # val/images/<file>.JPEG; a line is the file, its class and a box.
        rows = [line.split("\t") for line in annotations if line.strip()]
        times = Counter(row[0] for row in rows)
        if bad := [row[0] for row in rows if len(row) < 2 or times[row[0]] > 1]:
            reason = "val_annotations.txt with a line twice or without class"
            raise _error(path, f"{reason}: {bad[0]}")
        annotated = {_VALIDATION + row[0]: row[1] for row in sorted(rows)}
        images = [
            name
            for name in members
            if name.startswith(_VALIDATION) and name.endswith(".JPEG")
        ]
        _check(path, "images in val_annotations.txt", images, annotated)
        classes = {*WNIDS, *annotated.values()}
        _check(path, "classes in val_annotations.txt", WNIDS, classes)

        # The wnid, and its words separated by commas.
        pairs = [line.partition("\t") for line in words]
        first = {wnid: listed.split(",")[0].strip() for wnid, _, listed in pairs}
        named = {wnid: first[wnid] for wnid in WNIDS if first.get(wnid)}
        _check(path, "words.txt", WNIDS, named)
        return train, annotated, named


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens the zip, and reports damage that is found while it is open."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise _error(path, f"{type(error).__name__}: {first_line(error)}") from error
    except UnicodeDecodeError as error:
        raise _error(path, f"a list that is not text: {first_line(error)}") from error


def _error(path: Path, received: str) -> PmalError:
    return PmalError(
        f"{str(path)!r} cannot be read as Tiny ImageNet; expected a complete zip with "
        f"the layout of the official {ZIP_NAME}. Received: {received}. Put the "
        f"official {ZIP_NAME} in its place, or remove it and run the command again to "
        "download it."
    )


def _check(
    path: Path, what: str, expected: Iterable[str], found: Iterable[str]
) -> None:
    """Compares what was found with what was expected, in any order."""
    absent, unknown = set(expected) - set(found), set(found) - set(expected)
    if absent or unknown:
        raise _error(path, f"{what} without {_some(absent)}, unknown: {_some(unknown)}")


def _some(names: set[str]) -> str:
    """Names at most three of a set, for a message."""
    listed = ", ".join(sorted(names)[:3]) or "none"
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed
