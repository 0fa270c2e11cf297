"""What a run ran on."""

from __future__ import annotations

import contextlib
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
    own = {"pmal_tf": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in _PACKAGES}


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
        "hardware": hardware(),
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "seed": seed,
        "git_commit": _git_commit(),
    }


def hardware() -> str:
    """Returns what this runs on: cores that may be used, processor, GPUs."""
    import tensorflow as tf

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name"))
        processor = model.partition(":")[2].strip()
    cores = os.cpu_count()
    with contextlib.suppress(AttributeError):  # Linux alone has it.
        cores = len(os.sched_getaffinity(0))
    details = tf.config.experimental.get_device_details
    gpus = [
        details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return f"{cores} cores, {processor}; {', '.join(gpus) or 'no GPU'}"


def _git_commit() -> str | None:
    """Returns the commit of the package's checkout, or None outside of one.

    Followed by `with local changes` where the package is not as committed.
    """

    def git(*arguments: str) -> str:
        folder, command = Path(__file__).resolve().parent, ["git", *arguments]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Fails in an installed package, even if its folder is in another checkout.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        commit = git("rev-parse", "HEAD")
        return f"{commit} with local changes" if git("status", "-s", "..") else commit
    except (OSError, subprocess.CalledProcessError):
        return None
