"""The folder of prepared datasets as a place of work: who writes, and what is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pmal_tf.runtime.errors import PmalError, first_line


def manual_folder(root: Path) -> Path:
    """Returns where TFDS looks for files that were placed by hand."""
    return root / "downloads" / "manual"


@contextlib.contextmanager
def claimed(root: Path, name: str, archives: Iterable[str]) -> Iterator[None]:
    """Holds the folder of dataset `name` for this process while it is prepared.

    What an earlier, killed preparation left half-done is removed before, and what this
    one leaves half-done after, together with folders that it made for nothing.
    `archives` are the names of the files that the dataset is made from.

    Raises:
        PmalError: If the folder cannot be written, or another process holds it.
    """
    folder = root / name
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise unwritable(folder, error) from error
        with _locked(folder):
            _remove_leftovers(root, name, archives)
            try:
                yield
            finally:
                _remove_leftovers(root, name, archives)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # It is not empty: the usual case.
                path.rmdir()


def unwritable(folder: Path, error: BaseException) -> PmalError:
    """Makes the error of a folder into which nothing can be written."""
    return PmalError(
        f"The data folder cannot be written; expected room and permission to write in "
        f"{str(folder)!r}. Received: {type(error).__name__}: {first_line(error)}. Make "
        "room, change its permissions, or choose another folder with --data_dir."
    )


def check_space(root: Path, needed: int) -> None:
    """Checks that the disk of a folder has room for so many bytes.

    TFDS has such a check, but its datasets no longer state the sizes that it goes by.

    Raises:
        PmalError: If it has less.
    """
    free = shutil.disk_usage(root).free
    if free < needed:
        raise PmalError(
            f"Not enough disk space in {str(root)!r}. Needed: about {needed / 1e9:.1f} "
            f"GB. Received: {free / 1e9:.1f} GB. Make room, or choose another folder "
            "with --data_dir."
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a folder; the system unlocks it when the process ends, however it ends."""
    import fcntl  # Only POSIX systems have it, and only preparing needs it.

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems have no locks; go without there.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PmalError(
                    "Another process is preparing this dataset. Received: "
                    f"{str(folder)!r} is locked. Wait until it has finished."
                ) from error
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(root: Path, name: str, archives: Iterable[str]) -> None:
    """Removes what TFDS left half-done; whole downloads stay.

    TFDS names it `incomplete.<random>_<version>` while it generates,
    `<file>.tmp.<random>` while it downloads, and `incomplete.<random>_<method>.<file>`
    while it unpacks, in a folder that all datasets share.
    """
    downloads = root / "downloads"
    files = {path.name for path in (downloads / name).rglob("*")} | set(archives)
    endings = tuple(f".{file}" for file in files)
    unpacked = (downloads / "extracted").glob("incomplete.*_*.*")
    leftovers = [
        *(root / name).glob("incomplete.*"),
        *(downloads / name).rglob("*.tmp.*"),
        *(path for path in unpacked if path.name.endswith(endings)),
    ]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
