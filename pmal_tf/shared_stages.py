"""What runs of one workdir make from the same things, made once: `<workdir>/shared/`.

A sweep varies a setting or two; the classifiers, embeddings and robustness that do not
depend on these are the same files for all its points. They are kept under a hash of all
they are made from, and linked, not copied, where the file system can.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "shared"


class SharedFiles:
    """Files under the hash of what they are made from.

    Args:
        folder: Where they are kept; None keeps and finds nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def find(self, made_from: Mapping[str, Any], into: Path) -> Path | None:
        """Links the files that were made from some things into a folder.

        Args:
            made_from: All that the files depend on; JSON.
            into: The folder that their names are relative to. Files there are replaced.

        Returns:
            Where they are kept, None where nobody has kept any.
        """
        kept = self._entry(made_from)
        if kept is None or not kept.is_dir():
            return None
        for file in sorted(path for path in kept.rglob("*") if path.is_file()):
            _link(file, into / file.relative_to(kept))
        return kept

    def keep(self, made_from: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Keeps files for others; what is kept already stays.

        Args:
            made_from: All that the files depend on; JSON.
            files: Where each file is, by the name to keep it under.
        """
        kept = self._entry(made_from)
        if kept is None or kept.is_dir():
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        writing = Path(tempfile.mkdtemp(prefix="writing.", dir=kept.parent))
        try:
            for name, path in files.items():
                _link(path, writing / name)
            # Another process may have been faster; a folder that is there stays.
            with contextlib.suppress(OSError):
                writing.rename(kept)
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    def forget(self, made_from: Mapping[str, Any]) -> None:
        """Removes files that are kept but damaged."""
        kept = self._entry(made_from)
        if kept is not None:
            shutil.rmtree(kept, ignore_errors=True)

    def _entry(self, made_from: Mapping[str, Any]) -> Path | None:
        """Returns the folder of what is made from some things."""
        if self.folder is None:
            return None
        text = json.dumps(made_from, sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]


def _link(source: Path, target: Path) -> None:
    """Links a file to another place, or copies it where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
