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
from pathlib import Path
from typing import NamedTuple

from absl import logging
from filelock import Timeout

from pmal_tf.runtime.files import MARKER, Marker, locked, write_text
from pmal_tf.runtime.stage import METRICS, TENSORBOARD

_MAKING, _OLD, _LOCKS = ".making", ".old", "locks"
# A copy of the stage's lines and curves; what TensorBoard does not take for curves.
_RECORDS, _LINES, _CURVES = "records", "records.jsonl", "curves.zip"


class Result(NamedTuple):
    """A finished stage: the folder of its files, and what is written down of it."""

    folder: Path
    marker: Marker


class Store:
    """Finished results by key below `folder`, and the making of new ones."""

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
        """Takes a result that the store has lost back from a trial's folder.

        To be called by whoever holds the right to make it; None where it is not there.
        """
        marker = Marker.read(shown / stage)
        if marker is None or marker.key != key or marker.fault(shown):
            return None
        _remove(self.making(stage, key))
        making = self.open(stage, key)
        for name in (*marker.outputs, f"{stage}/{MARKER}"):
            _link(shown / name, making / name)
        return self.finish(stage, key, marker, shown)

    @contextlib.contextmanager
    def claimed(self, stage: str, key: str) -> Iterator[None]:
        """Holds the right to make a result; it ends with the process that has it."""
        waiting = f"{stage}: another command is making it; waiting"
        with locked(self._lock(f"{stage}-{key}"), waiting):
            yield

    def making(self, stage: str, key: str) -> Path:
        """Returns the folder in which a result is made."""
        return self.folder / f"{stage}-{key}{_MAKING}"

    def open(self, stage: str, key: str) -> Path:
        """Makes that folder, or opens what a killed command left."""
        making = self.making(stage, key)
        # Of a command that was killed when the result was nearly whole.
        shutil.rmtree(making / _RECORDS, ignore_errors=True)
        (making / stage / MARKER).unlink(missing_ok=True)
        (making / stage).mkdir(parents=True, exist_ok=True)
        return making

    def finish(self, stage: str, key: str, marker: Marker, shown: Path) -> Result:
        """Makes a result of what was made: read-only, and found from now on.

        The stage's records are copied from the trial's folder, `shown`.
        """
        entry, making = self._entry(stage, key), self.making(stage, key)
        _keep_records(stage, marker, shown, making / _RECORDS)
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
        place = hashlib.sha256(str(shown.resolve()).encode()).hexdigest()[:16]
        waiting = f"{stage}: another command is at {shown}; waiting"
        with locked(self._lock(f"shown-{place}"), waiting):
            before, marker = Marker.read(shown / stage), f"{stage}/{MARKER}"
            outputs = result.marker.outputs
            if before is not None and before.key == result.marker.key:
                if _alike(result.folder, shown, (*outputs, marker)):
                    return
            (shown / marker).unlink(missing_ok=True)
            for name in before.outputs if before is not None else ():
                if name not in outputs:
                    (shown / name).unlink(missing_ok=True)
            for name in outputs:
                _link(result.folder / name, shown / name)
            _show_records(stage, result, shown)
            _link(result.folder / marker, shown / marker)

    def sizes(self) -> dict[Path, int]:
        """Returns the bytes of every result, and of what killed commands left."""
        return {
            entry: sum(p.stat().st_size for p in entry.rglob("*") if p.is_file())
            for entry in sorted(self.folder.glob("*-*"))
        }

    def clear(self, entries: Iterable[Path]) -> list[Path]:
        """Removes results, and returns those; one that is being made stays."""
        removed = []
        for entry in entries:
            lock = self._lock(entry.name.removesuffix(_MAKING).removesuffix(_OLD))
            with contextlib.suppress(Timeout), locked(lock):
                _remove(entry)
                removed.append(entry)
        return removed

    def _entry(self, stage: str, key: str) -> Path:
        """Returns the folder of a result."""
        return self.folder / f"{stage}-{key}"

    def _lock(self, name: str) -> Path:
        """Returns the lock file of that name."""
        return self.folder / _LOCKS / f"{name}.lock"


def _link(source: Path, target: Path) -> None:
    """Links a file to another place at once, or copies it where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"linking.{os.getpid()}.{target.name}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError as error:
        sentence = "Files of the store cannot be linked (%s), and are copied instead."
        logging.log_first_n(logging.WARNING, sentence, 1, error.strerror or str(error))
        shutil.copy2(source, temporary)
    # Nothing happens where both are links to one file already.
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)


def _alike(folder: Path, shown: Path, names: Iterable[str]) -> bool:
    """Tells whether a trial's folder has all these files as the result has them."""
    pairs = [(shown / name, folder / name) for name in names]
    return all(
        here.exists()
        and (os.path.samefile(here, there) or here.read_bytes() == there.read_bytes())
        for here, there in pairs
    )


def replace_records(
    stage: str, shows: Iterable[str], shown: Path, lines: list[str]
) -> None:
    """Puts lines in place of a stage's in `metrics.jsonl`, and removes its curves."""
    own = _lines(shown / METRICS, stage)
    if own != lines:
        others = [line for line in _lines(shown / METRICS) if line not in set(own)]
        write_text(shown / METRICS, "".join([*others, *lines]))
    for name in shows:
        shutil.rmtree(shown / TENSORBOARD / name, ignore_errors=True)


def _keep_records(stage: str, marker: Marker, shown: Path, records: Path) -> None:
    """Copies a stage's lines of `metrics.jsonl`, and its curves."""
    write_text(records / _LINES, "".join(_lines(shown / METRICS, stage)))
    with zipfile.ZipFile(records / _CURVES, "w") as archive:
        for name in marker.shows:
            for path in sorted((shown / TENSORBOARD / name).rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(shown / TENSORBOARD))


def _show_records(stage: str, result: Result, shown: Path) -> None:
    """Puts the records of a stage into a trial's folder, in place of older ones."""
    records = result.folder / _RECORDS
    replace_records(stage, result.marker.shows, shown, _lines(records / _LINES))
    with zipfile.ZipFile(records / _CURVES) as archive:
        if archive.namelist():
            archive.extractall(shown / TENSORBOARD)


def _lines(path: Path, stage: str = "") -> list[str]:
    """Returns the lines of a file, none where there is none; or those of a stage."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [x for x in lines if not stage or x.startswith(f'{{"stage": "{stage}",')]


def _remove(folder: Path) -> None:
    """Removes a folder, at once for whoever looks for it."""
    leaving = folder.with_name(f"removing.{uuid.uuid4().hex}.{folder.name}")
    # Another process may be as fast.
    with contextlib.suppress(FileNotFoundError):
        folder.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)
