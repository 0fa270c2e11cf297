"""Files of a run: atomic writing, checksums, and markers of finished stages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.errors import PmalError, first_line

MARKER = "done.json"
STARTED = "started.json"
_BLOCK_BYTES = 2**24


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it, and renames.

    Args:
        path: The file to make; its folder is made too.
        write: Called with the temporary path, which keeps the suffix.

    Raises:
        Exception: What `write` does; an `OSError` then names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"writing.{path.name}")
    try:
        write(temporary)
    except Exception as error:
        # On a full disk what was half written must not stay.
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise
    os.replace(temporary, path)


def check_writable(folder: Path) -> None:
    """Writes into a folder and leaves all as it was.

    Raises:
        OSError: If it cannot be made or written.
    """
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    probe = folder / "writable.tmp"
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
            f"{path}: {error}. Put a sound copy back, or choose a new --experiment."
        ) from error


def checksum(path: Path, leave_out: tuple[str, ...] = ()) -> str:
    """Returns the SHA-256 of a file, or of a folder's files with their names.

    Args:
        path: The file or folder.
        leave_out: Names of files that do not count.
    """
    digest = hashlib.sha256()
    inside = path.rglob("*") if path.is_dir() else [path]
    files = sorted(f for f in inside if f.is_file() and f.name not in leave_out)
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as content:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names the entries in which two flat dicts differ, as `name: old -> new`."""
    names = sorted(set(old) | set(new))
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in names
        if old.get(name) != new.get(name)
    ]


@dataclass(frozen=True)
class Marker:
    """The marker of a finished stage, `<stage>/done.json`.

    Attributes:
        inputs: The settings that the stage depends on.
        upstream: Hash of each stage that this one read from.
        outputs: SHA-256 of each file or folder made, by path relative to the trial.
        seconds: How long it took.
        facts: What else is worth keeping, e.g. where an export lies.
    """

    inputs: dict[str, Any]
    upstream: dict[str, str]
    outputs: dict[str, str]
    seconds: float
    facts: dict[str, Any]

    @property
    def hash(self) -> str:
        """Hash of all that the stage depends on and of what it made."""
        content = [self.inputs, self.upstream, self.outputs]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Writes the marker; until then the stage counts as unfinished."""
        write_json(folder / MARKER, {**vars(self), "hash": self.hash})

    @classmethod
    def read(cls, folder: Path, kind: str) -> Marker | None:
        """Returns the marker of a stage, or None where there is none.

        Args:
            folder: The stage's folder.
            kind: The stage's name in `--stages`.

        Raises:
            PmalError: If it is damaged.
        """
        path = folder / MARKER
        if not path.exists():
            return None
        try:
            content = read_json(path)
            marker = cls(**{name: content[name] for name in cls.__dataclass_fields__})
            if marker.hash != content["hash"]:
                raise ValueError("its hash is not that of its content")
        except (KeyError, TypeError, ValueError) as error:
            raise PmalError(
                "The marker of a finished stage must stand as it was written. "
                f"Received: {path}: {first_line(error)}. Put a sound copy back, or "
                f"make the stage anew with --overwrite --stages={kind}."
            ) from error
        return marker

    def check_outputs(self, trial_folder: Path, kind: str) -> None:
        """Checks that everything the stage made is still as it was.

        Args:
            trial_folder: The trial's folder.
            kind: The stage's name in `--stages`.

        Raises:
            PmalError: If a file is missing or was changed.
        """
        for relative, expected in self.outputs.items():
            path = trial_folder / relative
            state = "is missing"
            if path.exists():
                if checksum(path) == expected:
                    continue
                state = "has another checksum than when it was made"
            raise PmalError(
                "A finished stage must keep its files as they were made. Received: "
                f"{path} {state}. Put a sound copy back, or make the stage anew "
                f"with --overwrite --stages={kind}."
            )
