"""A stage of work as it is declared, and the place where it is done.

A stage declares what it depends on and nothing of where results are kept: the same
things give the same result, which `pmal_tf.workflow.store` may have already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Work:
    """Where one stage is done.

    Attributes:
        key: Hash of all that the stage depends on.
        folder: Where its files go, by the paths that they have in the trial's folder.
            What a killed attempt left there is of the same key.
        shown: The trial's folder, for what grows while the stage runs: `metrics.jsonl`
            and what TensorBoard reads.
        results: Of each stage it needs, the folder that holds the files.
    """

    stage: str
    key: str
    folder: Path
    shown: Path
    results: Mapping[str, Path]

    def path_of(self, name: str) -> Path:
        """Returns where a file of a stage that this one needs is.

        Its name is its path in the trial's folder, e.g. `mining/prototypes.npz`.

        Raises:
            FileNotFoundError: If no stage that this one needs has made it.
        """
        for folder in self.results.values():
            if (folder / name).exists():
                return folder / name
        raise FileNotFoundError(f"{name} of {', '.join(self.results) or 'no stage'}")

    def new_path(self, name: str) -> Path:
        """Returns where to write a file, by its path in the trial's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Stage:
    """One step of a trial.

    Attributes:
        name: Its name, and that of its folder.
        kind: Its name in `--stages`.
        run: Does the work; returns facts worth keeping, JSON. Every file that it leaves
            in `Work.folder` is its result.
        needs: Names of the stages whose results it reads.
        reads: The settings that it reads, JSON by name.
        inputs: Names of what it reads beside; the engine takes their fingerprints.
        shows: Folders below `tensorboard/` that it writes.
        is_there: Whether what it made elsewhere is still there, by the facts.
        distributed: Whether all hosts take part; of them, the chief writes files.
    """

    name: str
    kind: str
    run: Callable[[Work], dict[str, Any]]
    needs: tuple[str, ...] = ()
    reads: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    is_there: Callable[[Mapping[str, Any]], bool] = lambda _: True
    distributed: bool = True
