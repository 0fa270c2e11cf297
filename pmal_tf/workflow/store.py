"""Results of stages, each in a folder named for all that it was made from.

    <store>/<stage>-<key>/           a result: files by their paths in a trial's folder,
                                     `<stage>/done.json`, and the stage's records
    <store>/<stage>-<key>.making/    one that is being made, or was cut short
    <store>/locks/                   who is making one holds its lock

A trial's folder shows a result by hard links, so the files are read-only: whoever
wrote into one would change it for all. What grows while a stage runs (`metrics.jsonl`,
curves) lies in the trial's folder, and a finished result keeps a copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import logging
from filelock import FileLock, Timeout

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import MARKER, Marker, check_writable, write_text
from pmal_tf.runtime.stage import METRICS, TENSORBOARD

_MAKING, _OLD, _LOCKS = ".making", ".old", "locks"
# A copy of the stage's records; what TensorBoard does not take for curves.
_RECORDS = ("records", "records.jsonl", "curves.zip")


@dataclass(frozen=True)
class Result:
    """A finished stage.

    Attributes:
        folder: Where its files are, by their paths in a trial's folder.
        marker: What is written down of it.
    """

    folder: Path
    marker: Marker


class Store:
    """Finished results by key, and the making of new ones.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, stage: str, key: str) -> Result | None:
        """Returns a result, None where there is no sound one.

        What is damaged counts as none, with a warning; the one that is made anew takes
        its place. Nothing is removed here: another command may just have renewed it.
        """
        entry = self._entry(stage, key)
        if not entry.is_dir():
            return None
        marker = Marker.read(entry / stage)
        fault = f"{stage}/{MARKER} is missing or damaged"
        if marker is not None and marker.key == key:
            fault = marker.fault(entry)
            if not fault:
                return Result(entry, marker)
        logging.warning("%s is damaged, and is made anew: %s.", entry, fault)
        return None

    def adopt(self, stage: str, key: str, shown: Path) -> Result | None:
        """Takes a result back from a trial's folder, where the store has lost it.

        To be called by whoever holds the right to make it.
        """
        marker = Marker.read(shown / stage)
        if marker is None or marker.key != key or marker.fault(shown):
            return None
        making = self.open(stage, key, fresh=True)
        for name in (*marker.outputs, f"{stage}/{MARKER}"):
            self._link(shown / name, making / name)
        return self.finish(stage, key, marker, shown)

    @contextlib.contextmanager
    def claimed(self, stage: str, key: str) -> Iterator[None]:
        """Holds the right to make a result; it ends with the process that has it."""
        path = self.folder / _LOCKS / f"{stage}-{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logging.info("%s: another command is making it; waiting", stage)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def making(self, stage: str, key: str) -> Path:
        """Returns the folder in which a result is made."""
        entry = self._entry(stage, key)
        return entry.with_name(f"{entry.name}{_MAKING}")

    def open(self, stage: str, key: str, *, fresh: bool) -> Path:
        """Makes that folder, or opens what a killed command left.

        Args:
            stage: The stage.
            key: Its key.
            fresh: Whether to begin anew all the same.
        """
        making = self.making(stage, key)
        if fresh:
            _remove(making)
        # Of a command that was killed when the result was nearly whole.
        shutil.rmtree(making / _RECORDS[0], ignore_errors=True)
        (making / stage / MARKER).unlink(missing_ok=True)
        (making / stage).mkdir(parents=True, exist_ok=True)
        return making

    def finish(self, stage: str, key: str, marker: Marker, shown: Path) -> Result:
        """Makes a result of what was made: read-only, and found from now on.

        Args:
            stage: The stage.
            key: Its key.
            marker: What is to be written down of it.
            shown: The trial's folder, whose records of the stage are copied.
        """
        entry, making = self._entry(stage, key), self.making(stage, key)
        _keep_records(stage, marker.shows, shown, making)
        marker.write(making / stage)
        for path in making.rglob("*"):
            if path.is_file():
                path.chmod(stat.S_IREAD | stat.S_IRGRP | stat.S_IROTH)
        old = entry.with_name(f"{entry.name}{_OLD}")
        _remove(old)
        if entry.exists():
            entry.rename(old)
        making.rename(entry)
        _remove(old)
        return Result(entry, marker)

    def show(self, stage: str, result: Result, shown: Path) -> None:
        """Makes a trial's folder show a result, at the plain paths of its files.

        The marker comes last: until then the stage counts as unfinished. Two commands
        that share a trial's folder take turns; the second finds nothing to do.
        """
        name = hashlib.sha256(str(shown.resolve()).encode()).hexdigest()[:16]
        with FileLock(self.folder / _LOCKS / f"shown-{name}.lock"):
            self._show(stage, result, shown)

    def _show(self, stage: str, result: Result, shown: Path) -> None:
        """Does it; see `show`."""
        before, marker = Marker.read(shown / stage), f"{stage}/{MARKER}"
        if before is not None and before.key == result.marker.key:
            if not _others(result, shown, (*result.marker.outputs, marker)):
                return
        (shown / marker).unlink(missing_ok=True)
        for name in before.outputs if before is not None else ():
            if name not in result.marker.outputs:
                (shown / name).unlink(missing_ok=True)
        for name in result.marker.outputs:
            self._link(result.folder / name, shown / name)
        _show_records(stage, result, shown)
        self._link(result.folder / marker, shown / marker)

    def sizes(self, used: Iterable[str]) -> tuple[dict[Path, int], dict[Path, int]]:
        """Returns the bytes of results that are used, and of those that are not.

        Args:
            used: Keys that trials' folders show.
        """
        keys, kept, free = set(used), dict[Path, int](), dict[Path, int]()
        for entry in sorted(self.folder.glob("*-*")):
            size = sum(p.stat().st_size for p in entry.rglob("*") if p.is_file())
            key = entry.name.rpartition("-")[2]
            (kept if key in keys else free)[entry] = size
        return kept, free

    def clear(self, entries: Iterable[Path]) -> list[Path]:
        """Removes results; one that is being made stays.

        Returns:
            Those that were removed.
        """
        removed = []
        for entry in entries:
            stem = entry.name.removesuffix(_MAKING).removesuffix(_OLD)
            path = self.folder / _LOCKS / f"{stem}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Timeout), FileLock(path, timeout=0):
                _remove(entry)
                removed.append(entry)
        return removed

    def _entry(self, stage: str, key: str) -> Path:
        """Returns the folder of a result."""
        return self.folder / f"{stage}-{key}"

    def _link(self, source: Path, target: Path) -> None:
        """Links a file to another place at once, or copies it where that cannot be."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"linking.{os.getpid()}.{target.name}")
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError as error:
            _tell_of_copies(self.folder, error.strerror or str(error))
            shutil.copy2(source, temporary)
        # Nothing happens where both are links to one file already.
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)


_TOLD: set[Path] = set()


def _tell_of_copies(folder: Path, reason: str) -> None:
    """Says once that files are copied, which takes room."""
    if folder not in _TOLD:
        _TOLD.add(folder)
        logging.warning(
            "Files of %s cannot be linked (%s), and are copied instead.", folder, reason
        )


def _others(result: Result, shown: Path, names: Iterable[str]) -> bool:
    """Tells whether a trial's folder lacks a file, or has another of that name."""
    for name in names:
        here, there = shown / name, result.folder / name
        if not here.exists():
            return True
        if (
            not os.path.samefile(here, there)
            and here.read_bytes() != there.read_bytes()
        ):
            return True
    return False


def drop_records(stage: str, shows: Iterable[str], shown: Path) -> None:
    """Removes a stage's lines of `metrics.jsonl`, and its curves, from a folder."""
    own = set(_lines(stage, shown / METRICS))
    if own:
        others = [line for line in _all_lines(shown / METRICS) if line not in own]
        write_text(shown / METRICS, "".join(others))
    for name in shows:
        shutil.rmtree(shown / TENSORBOARD / name, ignore_errors=True)


def _keep_records(stage: str, shows: Iterable[str], shown: Path, making: Path) -> None:
    """Copies a stage's lines of `metrics.jsonl`, and its curves."""
    folder, lines_file, curves_file = _RECORDS
    (making / folder).mkdir(exist_ok=True)
    write_text(making / folder / lines_file, "".join(_lines(stage, shown / METRICS)))
    with zipfile.ZipFile(making / folder / curves_file, "w") as archive:
        for name in shows:
            for path in sorted((shown / TENSORBOARD / name).rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(shown / TENSORBOARD))


def _show_records(stage: str, result: Result, shown: Path) -> None:
    """Puts the records of a stage into a trial's folder, in place of older ones."""
    folder, lines_file, curves_file = _RECORDS
    kept = result.folder / folder
    path = shown / METRICS
    new = (kept / lines_file).read_text(encoding="utf-8").splitlines(keepends=True)
    own = _lines(stage, path)
    if own != new:
        others = [x for x in _all_lines(path) if x not in set(own)]
        write_text(path, "".join([*others, *new]))
    for name in result.marker.shows:
        shutil.rmtree(shown / TENSORBOARD / name, ignore_errors=True)
    with zipfile.ZipFile(kept / curves_file) as archive:
        if archive.namelist():
            archive.extractall(shown / TENSORBOARD)


def _all_lines(path: Path) -> list[str]:
    """Returns the lines of `metrics.jsonl`, none where there is none."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _lines(stage: str, path: Path) -> list[str]:
    """Returns the lines that a stage wrote."""
    begins = f'{{"stage": "{stage}",'
    return [line for line in _all_lines(path) if line.startswith(begins)]


def _remove(folder: Path) -> None:
    """Removes a folder, at once for whoever looks for it."""
    if not folder.exists():
        return
    leaving = folder.with_name(f"removing.{uuid.uuid4().hex}.{folder.name}")
    # Another process may be as fast.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def check_store(folder: Path) -> None:
    """Checks that results can be kept.

    Raises:
        PmalError: If the folder cannot be written.
    """
    try:
        check_writable(folder)
    except OSError as error:
        raise PmalError(
            "`store_dir` must be a folder that can be written. Received: "
            f"{folder}: {error.strerror}. Choose another with --store_dir."
        ) from error
