"""Finding image files that a command line names, and reading a few at a time."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pmal_tf.data.datasets.folder_scan import SUFFIXES

STANDARD_INPUT = "-"
# A file of more bytes is not looked at; the largest image that is decoded is smaller.
MAX_BYTES = 2**28
# A batch ends early when its files together have so many bytes.
_BATCH_BYTES = 2**26
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class ImageFile:
    """One thing to answer for.

    Attributes:
        path: As it was named, undecodable bytes as surrogates; `-` for standard input.
        problem: Why there is nothing to read, or empty.
        contents: Its bytes, where they are read already.
    """

    path: str
    problem: str = ""
    contents: bytes | None = None


def find_images(
    arguments: Sequence[str], standard_input: BinaryIO | None
) -> Iterator[ImageFile]:
    """Finds the images that arguments name: files, folders, glob patterns, or `-`.

    `-` is for standard input, if the process has any: an image, or file names, one per
    line. Yields at least one for each argument: where nothing is found, one with the
    problem.
    """
    for argument in arguments:
        if argument == STANDARD_INPUT:
            yield from _of_standard_input(standard_input)
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            yield from _of_path(argument)
        else:
            # Folders may fit a pattern, and are passed over.
            fitting = sorted(glob.glob(argument, recursive=True))
            found = [ImageFile(path) for path in fitting if not os.path.isdir(path)]
            yield from found or [ImageFile(argument, "no file fits this pattern")]


def _of_path(path: str) -> Sequence[ImageFile]:
    """Returns a file, or the images below a folder."""
    if os.path.isdir(path):
        return _of_folder(path)
    exists = os.path.lexists(path)
    return [ImageFile(path, "" if exists else "there is no such file")]


def _of_folder(root: str) -> Sequence[ImageFile]:
    """Returns the images below a folder, by path; links are followed."""
    found: list[ImageFile] = []
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        problem = f"the folder cannot be read: {error.strerror}"
        found.append(ImageFile(str(error.filename), problem))

    for folder, below, names in os.walk(root, onerror=unreadable, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()  # A link led back here.
            continue
        seen.add((status.st_dev, status.st_ino))
        # In this order, which of two ways to a folder is taken is always the same.
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            ImageFile(os.path.join(folder, name))
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not found:
        kinds = ", ".join(SUFFIXES)
        return [ImageFile(root, f"the folder holds no files that end in {kinds}")]
    return sorted(found, key=lambda file: file.path)


def _of_standard_input(stream: BinaryIO | None) -> Iterator[ImageFile]:
    """Yields the image that is sent, or the files that are named, one per line."""
    contents = stream.read(MAX_BYTES + 1) if stream is not None else b""
    # No file name has a zero byte, and nearly no image has none. Signatures alone would
    # not do: BMP's, `BM`, may begin a name.
    is_image = contents.startswith(_SIGNATURES) or b"\0" in contents
    if len(contents) > MAX_BYTES:
        yield ImageFile(STANDARD_INPUT, f"there are more than {MAX_BYTES:,} bytes")
    elif is_image:
        yield ImageFile(STANDARD_INPUT, contents=contents)
    else:
        paths = [os.fsdecode(line.rstrip(b"\r")) for line in contents.split(b"\n")]
        if not any(paths):
            yield ImageFile(STANDARD_INPUT, "there is neither an image nor a name")
        for path in filter(None, paths):
            # A name in a list is meant as it stands: it is no pattern.
            yield from _of_path(path)


def read_in_batches(
    files: Sequence[ImageFile], batch_size: int
) -> Iterator[list[ImageFile]]:
    """Yields files with `contents` or a `problem`, read as they are needed.

    At most so many at a time, fewer if large.
    """
    batch: list[ImageFile] = []
    held = 0
    for file in files:
        batch.append(_read(file))
        held += len(batch[-1].contents or b"")
        if len(batch) == batch_size or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _read(file: ImageFile) -> ImageFile:
    """Returns a file with its bytes, or with the reason why it has none."""
    if file.problem or file.contents is not None:
        return file
    try:
        # Before it is opened: a FIFO would wait for a writer, a device may never end.
        status = os.stat(file.path)
        if not stat.S_ISREG(status.st_mode):
            return ImageFile(file.path, "not a regular file")
        if status.st_size > MAX_BYTES:
            return ImageFile(file.path, f"the file has more than {MAX_BYTES:,} bytes")
        with open(file.path, "rb") as stream:
            # The model refuses one that has grown meanwhile.
            return ImageFile(file.path, contents=stream.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return ImageFile(file.path, f"the file cannot be read: {reason}")
