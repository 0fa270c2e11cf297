"""What a run ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from pmal_tf.runtime.version import __version__

_PACKAGES = ("tensorflow", "keras", "tensorflow-datasets", "numpy", "scikit-learn")


def library_versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of what it computes with."""
    return {
        "pmal_tf": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def describe_environment(seed: int) -> dict[str, Any]:
    """Returns versions, devices, seed and git commit, for `environment.json`."""
    import tensorflow as tf

    return {
        "pmal_tf": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "seed": seed,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Returns the commit of the package's checkout, or None outside of one.

    Followed by `with local changes` where the package is not as committed.
    """
    package = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=package,
            capture_output=True,
            check=False,
        )
        if answer.returncode:
            return None
        commit, changes = (
            subprocess.run(
                ["git", *command],
                cwd=package,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "."])
        )
        return f"{commit} with local changes" if changes else commit
    except (OSError, subprocess.CalledProcessError):
        return None
