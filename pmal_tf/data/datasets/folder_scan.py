"""Finding the images of a folder: classes, files, and what cannot be meant."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from pmal_tf.runtime.errors import PmalError

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = (*JPEG_SUFFIXES, ".png", ".bmp", ".gif")
# The class name of images directly in `unknown/`; no known class can have it.
UNKNOWN = "unknown"
_SIDES = ("train", "test", UNKNOWN)
_LAYOUT = "train/<class>/*, optionally test/<class>/* and unknown/**"


@dataclass(frozen=True)
class ImageEntry:
    """One image file.

    Attributes:
        path: Relative to the root, with `/`; it is the example id.
        side: `train`, `test` or `unknown`, the folder it is in.
        class_name: The folder below; in `unknown/` the folder below with the prefix
            `unknown/`, which no class of the other sides can have.
    """

    path: str
    side: str
    class_name: str


@dataclass(frozen=True)
class ImageFolder:
    """What a folder of images holds.

    Attributes:
        root: The folder.
        entries: Its images, in ascending order of path within each side.
        skipped: How many other files there are, by suffix.
    """

    root: Path
    entries: tuple[ImageEntry, ...]
    skipped: Counter[str]

    def warn_of_skipped(self) -> None:
        """Warns of folders and files that are no images by their names."""
        folders = [
            repr(path.name)
            for path, is_folder in _listed(self.root)
            if is_folder and path.name not in _SIDES
        ]
        if folders:
            logging.warning(
                "Only train/, test/ and unknown/ are read. Passed over in %s: %s.",
                self.root,
                ", ".join(folders),
            )
        if self.skipped:
            kinds = [f"{n} {kind}" for kind, n in sorted(self.skipped.items())]
            logging.warning(
                "Passed over files whose names are not those of JPEG, PNG, BMP or GIF "
                "images: %s.",
                ", ".join(kinds),
            )


def scan(root: Path) -> ImageFolder:
    """Lists the images of a folder, `train/<class>/*`, `test/<class>/*`, `unknown/**`.

    Nested folders belong to the class above them; links are followed; names that begin
    with a dot are passed over.

    Raises:
        PmalError: If the layout is not that, a class has no image, classes differ in
            case only, or a folder contains itself.
    """
    wrong = ""
    if not (root / "train").is_dir():
        wrong = f"data_dir={str(root)!r}{_what_is_there(root)}"
    for path in (root / side for side in _SIDES):
        if os.path.lexists(path) and not path.is_dir():
            wrong = f"{str(path)!r}, which is no folder or a link to none"
    if wrong:
        raise PmalError(f"A folder of images must hold {_LAYOUT}. Received: {wrong}")
    skipped: Counter[str] = Counter()
    entries: list[ImageEntry] = []
    for side in filter(os.path.exists, (root / "train", root / "test")):
        listed = _listed(side)
        stray = [p.name for p, is_folder in listed if not is_folder and _is_image(p)]
        if stray:
            raise PmalError(
                f"Every image of {side.name}/ must be in the folder of its class. "
                f"Received: {len(stray)} directly in {side}, such as {stray[0]!r}"
            )
        for folder in (p for p, is_folder in listed if is_folder):
            paths = _image_paths(folder, root, skipped)
            if not paths:
                raise PmalError(
                    "Every class folder must hold an image (JPEG, PNG, BMP or GIF). "
                    f"Received: none in {str(folder)!r}. Remove the folder, or add "
                    "images."
                )
            entries += [ImageEntry(path, side.name, folder.name) for path in paths]
    if (root / UNKNOWN).exists():
        for name in _image_paths(root / UNKNOWN, root, skipped):
            # The folder below `unknown/` is the class of images of no known one.
            class_name = "/".join(name.split("/")[:-1][:2])
            entries.append(ImageEntry(name, UNKNOWN, class_name))
    _check_classes(root, entries)
    _check_shared_files(root, entries)
    return ImageFolder(root, tuple(entries), skipped)


def _what_is_there(root: Path) -> str:
    """Says what a folder without `train` holds instead."""
    if not root.is_dir():
        return ", which is not a folder"
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    if not names:
        return ", which holds no folders"
    return f", which holds {', '.join(map(repr, names[:5]))}. Move classes into train/."


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _image_paths(folder: Path, root: Path, skipped: Counter[str]) -> list[str]:
    """Returns the paths of image files below a folder, and counts the others."""
    paths = []
    for path in _walk(folder, (), folder):
        if not _is_image(path):
            # A byte that is not UTF-8 is shown as `\xe9`: not every log could hold it.
            suffix = os.fsencode(path.suffix.lower()).decode(errors="backslashreplace")
            skipped[suffix or "without suffix"] += 1
            continue
        try:
            str(path).encode()  # Example ids must be able to hold it.
        except UnicodeEncodeError as error:
            raise PmalError(
                "File and folder names must be valid UTF-8. Received: "
                f"{os.fsencode(path)!r}. Rename it."
            ) from error
        paths.append(path.relative_to(root).as_posix())
    return sorted(paths)


def _walk(
    folder: Path, above: tuple[tuple[int, int], ...], link: Path
) -> Iterator[Path]:
    """Yields the files below a folder, following links.

    A folder that is among those `above`, by device and inode, closes a circle; `link`,
    the last one passed through, is to blame then.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise _circle(link)
    for path, is_folder in _listed(folder):
        if is_folder:
            yield from _walk(path, (*above, here), path if path.is_symlink() else link)
        elif path.is_file() or path.is_symlink():
            yield path


def _listed(folder: Path) -> list[tuple[Path, bool]]:
    """Returns what is in a folder, but dot files, and whether each is a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (Path(entry.path), entry.is_dir())
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _circle(error.filename) from error
        raise PmalError(
            f"Every folder of images must be readable. Received: {str(folder)!r}: "
            f"{error.strerror}"
        ) from error


def _circle(link: Path | str) -> PmalError:
    """Makes the error of a link that leads back to itself."""
    return PmalError(
        "A folder of images may not contain itself. Received: the link "
        f"{str(link)!r}, which leads back to a folder above it or to itself. Remove "
        "the link."
    )


def _check_shared_files(root: Path, entries: Iterable[ImageEntry]) -> None:
    """Checks that no file is there twice, by a link, as two different things."""
    seen: dict[tuple[int, int], ImageEntry] = {}
    for entry in entries:
        try:
            status = (root / entry.path).stat()
        except OSError:
            continue  # It will be listed as unreadable.
        first = seen.setdefault((status.st_dev, status.st_ino), entry)
        if (first.side, first.class_name) != (entry.side, entry.class_name):
            raise PmalError(
                "A file may be of one class and one side only. Received: "
                f"{first.path!r} and {entry.path!r} in {str(root)!r}, the same file "
                "by a link. Remove one."
            )


def _check_classes(root: Path, entries: Iterable[ImageEntry]) -> None:
    """Checks that classes can be told apart, and that none is only in `test`."""
    trained = sorted({e.class_name for e in entries if e.side == "train"})
    tested = {e.class_name for e in entries if e.side == "test"}
    seen: dict[str, str] = {}
    for name in sorted({*trained, *tested}):
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded == UNKNOWN:
            raise PmalError(
                f"No class may be named {UNKNOWN!r}, the answer for images of no class."
                f" Received: a class folder {name!r} in {str(root)!r}. Rename it, or "
                f"move its images to {UNKNOWN}/ beside train/."
            )
        if not name.isprintable() or name != name.strip():
            raise PmalError(
                "Names of class folders must be printable text without spaces at "
                f"their ends. Received: {name!r} in {str(root)!r}. Rename it."
            )
        if seen.setdefault(folded, name) != name:
            raise PmalError(
                "Names of classes must differ in more than upper and lower case or the "
                f"Unicode form. Received: {seen[folded]!r} and {name!r} in "
                f"{str(root)!r}. Join the two folders, or rename one."
            )
    if len(trained) < 2:
        raise PmalError(
            "train/ must hold the folders of at least two classes. Received: "
            f"{trained} in {str(root / 'train')!r}"
        )
    untrained = sorted(tested - set(trained))
    if untrained:
        raise PmalError(
            "Every class of test/ must have training images. Received: "
            f"{', '.join(map(repr, untrained))} in test/ alone. Move them to "
            f"{UNKNOWN}/<class>/, or add training images."
        )
