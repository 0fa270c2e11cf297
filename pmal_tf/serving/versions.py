"""Version folders of exported models: `<name>/1`, `<name>/2`, ..."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import checksum, read_json

METADATA = "metadata.json"
# TensorFlow's name of the folder for files that come along with a SavedModel.
EXTRA = "assets.extra"


def versions(parent: Path) -> list[Path]:
    """Returns the version folders, oldest first."""
    found = (path for path in parent.glob("*") if path.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name))


def next_version(parent: Path) -> Path:
    """Returns the folder for the next version, with a number that none has.

    Numbers of versions that were set aside by another name, e.g. `withdrawn_3`, count:
    a log that names a version must not mean two.
    """
    names = (path.name for path in parent.glob("*") if "writing" not in path.name)
    found = (re.fullmatch(r"(?:.*_)?(\d+)", name) for name in names)
    newest = max((int(match[1]) for match in found if match), default=0)
    return parent / str(newest + 1)


def is_intact(folder: Path) -> bool:
    """Tells whether an exported version still is what was written."""
    try:
        facts = read_json(folder / METADATA)
        return facts.get("sha256") == checksum(folder, leave_out=(METADATA,))
    except (OSError, PmalError):
        return False


def remove_old_versions(parent: Path, keep: int) -> list[str]:
    """Removes all but the newest `keep` versions, none for 0; returns the names."""
    for left in parent.glob("removing_*"):  # By a process that was killed.
        shutil.rmtree(left)
    old = versions(parent)[:-keep] if keep else []
    for folder in old:
        # A server must not see a version that is half gone.
        leaving = folder.with_name(f"removing_{folder.name}")
        folder.rename(leaving)
        shutil.rmtree(leaving)
    return [folder.name for folder in old]
