"""Files of a run: atomic writing, checksums, and markers of finished stages."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from filelock import FileLock, Timeout

from pmal_tf.runtime.errors import PmalError

MARKER = "done.json"
# What a disk that cannot lock says, as some network disks do.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file, and its folder, under a temporary name beside it, and renames.

    `write` is called with the temporary path, which keeps the suffix. What it raises
    passes; an `OSError` then names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two commands may write the same record of one trial at once.
    temporary = path.with_name(f"writing.{os.getpid()}.{path.name}")
    try:
        write(temporary)
    except Exception as error:
        # On a full disk what was half written must not stay.
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise
    os.replace(temporary, path)


@contextlib.contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Holds a lock file, which ends with the process however that ends.

    Where another process has it, logs `waiting` and waits; without a text, raises
    filelock's `Timeout`. On a disk that cannot lock, goes on without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not waiting:
            raise
        logging.info("%s", waiting)
        lock.acquire()
    except NotImplementedError:
        pass  # A system without locks.
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def check_writable(folder: Path) -> None:
    """Writes into a folder, or raises an `OSError`, and leaves all as it was."""
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    probe = folder / f"writable.{os.getpid()}.tmp"
    write_text(probe, "")
    probe.unlink()
    for parent in new:
        with contextlib.suppress(OSError):  # Another run may have begun to use it.
            parent.rmdir()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False
) -> None:
    """Writes an `.npz` file of numbers, booleans or strings atomically.

    The only place that calls `np.savez`: NumPy 2.0 takes `allow_pickle`, which later
    versions have as an option, for one more array to write. Without it an array of
    objects would be pickled, so such are refused here.

    Raises:
        TypeError: If an array holds objects.
    """
    plain: dict[str, Any] = {n: np.asanyarray(array) for n, array in arrays.items()}
    objects = [name for name, array in plain.items() if array.dtype.hasobject]
    if objects:
        raise TypeError(f"Arrays of objects cannot be kept. Received: {objects}")
    save = np.savez_compressed if compressed else np.savez

    def write(temporary: Path) -> None:
        # Opened here: NumPy would add `.npz` to a name without.
        with temporary.open("wb") as file:
            save(file, **plain)

    write_atomically(path, write)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        PmalError: If it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise json.JSONDecodeError("not an object", "", 0)
        return content
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PmalError(
            "A record of the run is damaged; expected a JSON object. Received: "
            f"{path}: {error}. Put a sound copy back, or remove it."
        ) from error


def checksum(path: Path, leave_out: tuple[str, ...] = ()) -> str:
    """Returns the SHA-256 of a file, or of a folder's files with their names.

    Files whose name is in `leave_out` do not count.
    """
    digest = hashlib.sha256()
    inside = path.rglob("*") if path.is_dir() else [path]
    files = sorted(f for f in inside if f.is_file() and f.name not in leave_out)
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)  # Goes on with the same.
    return digest.hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names the entries in which two flat dicts differ, as `name: old -> new`."""
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


@dataclass(frozen=True)
class Marker:
    """The marker of a finished stage, `<stage>/done.json`.

    Attributes:
        key: Hash of all that the stage depends on.
        inputs: The settings that it reads, and fingerprints of what else it reads.
        upstream: Hash of what each stage that this one reads from has made.
        outputs: SHA-256 of each file made, by path relative to the trial.
        facts: What else is worth keeping, e.g. where an export lies.
        shows: Folders below `tensorboard/` that it wrote.
    """

    key: str
    inputs: dict[str, Any]
    upstream: dict[str, str]
    outputs: dict[str, str]
    seconds: float
    facts: dict[str, Any]
    shows: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Hash of what the stage made, wherever that came from."""
        content = [self.outputs, self.facts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes the marker; until then the stage counts as unfinished."""
        write_json(folder / MARKER, {**vars(self), "hash": self.hash})

    @classmethod
    def read(cls, folder: Path) -> Marker | None:
        """Returns the marker in a stage's folder, None where there is no sound one."""
        try:
            content = read_json(folder / MARKER)
            made = content.pop("hash")
            marker = cls(**{**content, "shows": tuple(content["shows"])})
            return marker if marker.hash == made else None
        except (OSError, KeyError, TypeError, PmalError):
            return None

    def fault(self, folder: Path) -> str:
        """Says what is wrong with the stage's files below a folder, empty for none."""
        for relative, expected in self.outputs.items():
            path = folder / relative
            if not path.is_file():
                return f"{relative} is missing"
            if checksum(path) != expected:
                return f"{relative} has another checksum than when it was made"
        return ""
