"""Files of runs of one workdir that are made from the same things, kept once.

They are kept under a hash of all they are made from, and linked, not copied, where the
file system can. Before they are used they are checked against the checksums they were
kept with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.workdir import checksum, read_json, write_json

FOLDER = "shared"
_CHECKSUMS = "checksums.json"


class SharedFiles:
    """Files under the hash of what they are made from.

    Args:
        folder: Where they are kept; None keeps and finds nothing.
        renew: Find nothing, and replace what is kept.
    """

    def __init__(self, folder: Path | None, *, renew: bool = False) -> None:
        self.folder = folder
        self.renew = renew

    def find(self, made_from: Mapping[str, Any]) -> Path | None:
        """Returns the folder of what was made from some things, None if nobody has.

        Args:
            made_from: All that the files depend on; JSON.
        """
        kept = self._entry(made_from)
        if kept is None or self.renew or not kept.is_dir():
            return None
        path = kept / _CHECKSUMS
        sums = read_json(path) if path.exists() else {}
        names = {str(file.relative_to(kept)) for file in _files_in(kept)}
        if names == set(sums) and all(checksum(kept / n) == sums[n] for n in sums):
            return kept
        logging.warning("What is kept in %s is damaged, and is made anew.", kept)
        shutil.rmtree(kept, ignore_errors=True)
        return None

    def keep(self, made_from: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Keeps files for others; what is kept already stays, unless it is renewed.

        Args:
            made_from: All that the files depend on; JSON.
            files: Where each file is, by the name to keep it under.
        """
        kept = self._entry(made_from)
        if kept is None:
            return
        if self.renew:
            shutil.rmtree(kept, ignore_errors=True)
        if kept.is_dir():
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        writing = Path(tempfile.mkdtemp(prefix="writing.", dir=kept.parent))
        try:
            for name, path in files.items():
                link(path, writing / name)
            sums = {name: checksum(writing / name) for name in files}
            write_json(writing / _CHECKSUMS, sums)
            # Another process may have been faster; a folder that is there stays.
            with contextlib.suppress(OSError):
                writing.rename(kept)
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    def _entry(self, made_from: Mapping[str, Any]) -> Path | None:
        """Returns the folder of what is made from some things."""
        if self.folder is None:
            return None
        text = json.dumps(made_from, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def place_files(kept: Path, place: Callable[[str], Path | None]) -> None:
    """Links kept files to where they are wanted.

    Args:
        kept: A folder that `SharedFiles.find` returned.
        place: From the name of a file to its new place, or None to leave it.
    """
    for file in _files_in(kept):
        target = place(str(file.relative_to(kept)))
        if target is not None:
            link(file, target)


def link(source: Path, target: Path) -> None:
    """Links a file to another place, or copies it where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _files_in(folder: Path) -> list[Path]:
    """Returns the files of a kept folder, the checksums left out."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name != _CHECKSUMS)
