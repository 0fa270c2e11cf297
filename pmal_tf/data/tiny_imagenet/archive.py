"""The layout of the official tiny-imagenet-200.zip, read without unpacking it."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pmal_tf.data.tiny_imagenet import wnids
from pmal_tf.runtime.errors import PmalError, first_line

ZIP_NAME = "tiny-imagenet-200.zip"

_TOP = "tiny-imagenet-200/"
_WNIDS, _WORDS = f"{_TOP}wnids.txt", f"{_TOP}words.txt"
_ANNOTATIONS, _VALIDATION = f"{_TOP}val/val_annotations.txt", f"{_TOP}val/images/"


class Layout(NamedTuple):
    """What the zip holds.

    Attributes:
        train: Class (its wnid) of each training image, by path in the zip, sorted.
        test: Likewise of the official validation images. The official test images have
            no labels and are left out.
        words: The first words for each class, such as `goldfish`.
    """

    train: dict[str, str]
    test: dict[str, str]
    words: dict[str, str]


def read_layout(path: Path) -> Layout:
    """Reads which images the zip holds, and of which class each one is.

    Raises:
        PmalError: If it is no zip, or lacks anything that the official one has. Fewer
            images per class are no error.
    """
    with _opened(path) as archive:
        members = sorted(archive.namelist())
        lists = (_WNIDS, _WORDS, _ANNOTATIONS)
        _check(path, "files", set(members).intersection(lists), lists)
        listed = {line.strip() for line in _lines(archive, _WNIDS)}
        _check(path, "wnids.txt", listed, wnids())

        # train/<wnid>/images/<file>.JPEG
        folders = {name: name.removeprefix(_TOP).split("/") for name in members}
        train = {
            name: parts[1]
            for name, parts in folders.items()
            if parts[0] == "train" and name.endswith(".JPEG") and len(parts) == 4
        }
        _check(path, "classes of training images", train.values(), wnids())

        # val/images/<file>.JPEG; a line is the file, its class and a box.
        rows = [line.split("\t") for line in _lines(archive, _ANNOTATIONS)]
        times = Counter(row[0] for row in rows)
        if bad := [row[0] for row in rows if len(row) < 2 or times[row[0]] > 1]:
            reason = "val_annotations.txt with a line twice or without class"
            raise _error(path, f"{reason}: {bad[0]}")
        annotated = {row[0]: row[1] for row in rows}
        images = {
            name.removeprefix(_VALIDATION)
            for name in members
            if name.startswith(_VALIDATION) and name.endswith(".JPEG")
        }
        _check(path, "images in val_annotations.txt", annotated, images)
        strangers = set(annotated.values()) - set(wnids())
        _check(path, "classes in val_annotations.txt", strangers, ())

        # The wnid, and its words separated by commas.
        pairs = [line.partition("\t") for line in _lines(archive, _WORDS)]
        words = {wnid: listed.split(",")[0].strip() for wnid, _, listed in pairs}
        named = {wnid: words[wnid] for wnid in wnids() if words.get(wnid)}
        _check(path, "words.txt", named, wnids())
    test = {_VALIDATION + file: wnid for file, wnid in sorted(annotated.items())}
    return Layout(train, test, named)


def read_images(path: Path, members: Iterable[str]) -> Iterator[bytes]:
    """Reads images, named as in `read_layout`, as the bytes of their JPEG files.

    Raises:
        PmalError: If the zip is damaged.
    """
    with _opened(path) as archive:
        for name in members:
            yield archive.read(name)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens the zip, and tells of damage that is found while it is open."""
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


def _lines(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Returns the lines of a list in the zip, without empty ones."""
    lines = archive.read(name).decode("utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _check(
    path: Path, what: str, found: Iterable[str], expected: Iterable[str]
) -> None:
    """Holds what was found to what was expected, in any order."""
    absent, unknown = set(expected) - set(found), set(found) - set(expected)
    if absent or unknown:
        raise _error(path, f"{what} without {_some(absent)}, unknown: {_some(unknown)}")


def _some(names: set[str]) -> str:
    """Names at most three of a set, for a message."""
    listed = ", ".join(sorted(names)[:3]) or "none"
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed
