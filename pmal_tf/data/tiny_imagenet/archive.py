"""The layout of the official tiny-imagenet-200.zip, read without unpacking it."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pmal_tf.data.tiny_imagenet import wnids
from pmal_tf.runtime.errors import PmalError, first_line

ZIP_NAME = "tiny-imagenet-200.zip"

_TOP = "tiny-imagenet-200/"
_WAY_OUT = (
    f"Put the official {ZIP_NAME} in its place, or remove it and run the command again "
    "to download it."
)


@dataclass(frozen=True)
class Member:
    """An image in the zip.

    Attributes:
        path: Where it lies in the zip.
        wnid: WordNet id of its class.
    """

    path: str
    wnid: str

    @property
    def file_name(self) -> str:
        """Its name without folders, which is unique in its split."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Layout:
    """What the zip holds.

    Attributes:
        train: The training images, sorted by path.
        test: The official validation images, sorted by path. The official test images
            have no labels and are left out.
        words: The first words for each class, such as `goldfish`.
    """

    train: tuple[Member, ...]
    test: tuple[Member, ...]
    words: dict[str, str]


def read_layout(path: Path) -> Layout:
    """Reads which images the zip holds, and of which class each one is.

    Args:
        path: The zip.

    Raises:
        PmalError: If it is no zip, or lacks anything that the official one has. Fewer
            images per class are no error.
    """
    with _opened(path) as archive:
        members = frozenset(archive.namelist())
        needed = ("wnids.txt", "words.txt", "val/val_annotations.txt")
        missing = [name for name in needed if _TOP + name not in members]
        for folder in ("train/", "val/images/"):
            if not any(name.startswith(_TOP + folder) for name in members):
                missing.append(folder)
        if missing:
            raise _error(path, f"no {', '.join(_TOP + name for name in missing)}")
        _check_classes(path, _lines(archive, "wnids.txt"))
        return Layout(
            train=_train_members(path, members),
            test=_test_members(
                path, members, _lines(archive, "val/val_annotations.txt")
            ),
            words=_first_words(path, _lines(archive, "words.txt")),
        )


def read_images(path: Path, members: Iterable[Member]) -> Iterator[bytes]:
    """Reads images, as the bytes of their JPEG files.

    Args:
        path: The zip.
        members: Its images, from `read_layout`.

    Raises:
        PmalError: If the zip is damaged.
    """
    with _opened(path) as archive:
        for member in members:
            yield archive.read(member.path)


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
        f"the layout of the official {ZIP_NAME}. Received: {received}. {_WAY_OUT}"
    )


def _lines(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Returns the lines of a list in the zip, without empty ones."""
    lines = archive.read(_TOP + name).decode("utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _check_classes(path: Path, listed: list[str]) -> None:
    """Holds wnids.txt to the 200 classes; its order may be any.

    Raises:
        PmalError: If it lists others.
    """
    found, expected = {line.strip() for line in listed}, set(wnids())
    if found != expected:
        raise _error(
            path,
            f"a wnids.txt of {len(found)} classes, without "
            f"{_some(expected - found)} and with the unknown {_some(found - expected)}",
        )


def _train_members(path: Path, members: frozenset[str]) -> tuple[Member, ...]:
    """Finds `train/<wnid>/images/<file>.JPEG`.

    Raises:
        PmalError: If a class is unknown or has no images.
    """
    found = []
    for name in sorted(members):
        folders = name.removeprefix(_TOP).split("/")
        if folders[0] == "train" and name.endswith(".JPEG") and len(folders) == 4:
            found.append(Member(name, folders[1]))
    present = {member.wnid for member in found}
    if unknown := present - set(wnids()):
        raise _error(path, f"training images of the unknown class {_some(unknown)}")
    if empty := set(wnids()) - present:
        raise _error(path, f"no training images of {_some(empty)}")
    return tuple(found)


def _test_members(
    path: Path, members: frozenset[str], annotations: list[str]
) -> tuple[Member, ...]:
    """Finds `val/images/<file>.JPEG` and its class in val_annotations.txt.

    A line of the annotations is: file, wnid and a box, separated by tabs.

    Raises:
        PmalError: If images and annotations do not fit together.
    """
    rows = [line.split("\t") for line in annotations]
    if short := [line for line in annotations if "\t" not in line]:
        raise _error(path, f"val_annotations.txt with a line without class: {short[0]}")
    names = Counter(row[0] for row in rows)
    if doubled := {name for name, count in names.items() if count > 1}:
        raise _error(path, f"val_annotations.txt with two lines for {_some(doubled)}")
    if strangers := {row[1] for row in rows} - set(wnids()):
        raise _error(
            path, f"val_annotations.txt with the unknown class {_some(strangers)}"
        )
    folder = f"{_TOP}val/images/"
    images = {
        name.removeprefix(folder)
        for name in members
        if name.startswith(folder) and name.endswith(".JPEG")
    }
    if absent := set(names) - images:
        raise _error(path, f"no {_some(absent)}, which val_annotations.txt names")
    if bare := images - set(names):
        raise _error(path, f"no line in val_annotations.txt for {_some(bare)}")
    return tuple(Member(folder + row[0], row[1]) for row in sorted(rows))


def _first_words(path: Path, lines: list[str]) -> dict[str, str]:
    """Reads the first words of `wnid<tab>words, other words`.

    Raises:
        PmalError: If a class is not named.
    """
    words = {}
    for line in lines:
        wnid, _, listed = line.partition("\t")
        words[wnid] = listed.split(",")[0].strip()
    if nameless := {wnid for wnid in wnids() if not words.get(wnid)}:
        raise _error(path, f"no words in words.txt for {_some(nameless)}")
    return {wnid: words[wnid] for wnid in wnids()}


def _some(names: set[str]) -> str:
    """Names at most three of a set, for a message."""
    listed = ", ".join(sorted(names)[:3]) or "none"
    return f"{listed} and {len(names) - 3} more" if len(names) > 3 else listed
