"""Finished stages that runs of one workdir take from each other.

A sweep varies a setting or two; the stages that do not depend on these are the same for
all its points.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.shared_files import place_files
from pmal_tf.training.callbacks import drop_records
from pmal_tf.training.checkpoints import remove_checkpoints
from pmal_tf.trial import Trial
from pmal_tf.workdir import MARKER, STARTED, Marker

_METRICS = "metrics.jsonl"
# Curves of a stage lie in the trial's folder of TensorBoard, not in the stage's own.
_CURVES = "tensorboard"


@dataclass(frozen=True)
class SharedStage:
    """A stage of a trial that another run may have made, or may want.

    Attributes:
        trial: The trial.
        name: The stage's folder.
        kind: Its name in `--stages`.
        inputs: The settings that it depends on.
        read: What it reads: the outputs of the stages before it, by their folders. Not
            their hashes: another run may have made the same files with another number
            of models.
    """

    trial: Trial
    name: str
    kind: str
    inputs: dict[str, Any]
    read: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return self.trial.folder / self.name

    @property
    def _curves(self) -> Path:
        """The stage's curves."""
        return self.trial.folder / _CURVES / self.name

    @property
    def _made_from(self) -> dict[str, Any]:
        """All that the stage depends on."""
        inputs = dict(self.inputs)
        if self.kind in ("pretrain", "control"):
            inputs.pop("num_models")
        return self.trial.made_from(stage=self.name, inputs=inputs, read=self.read)

    def take(self, upstream: dict[str, str]) -> Marker | None:
        """Takes the stage from the run that has made it.

        Its marker comes last: until then the stage counts as unfinished.

        Args:
            upstream: Hash of each stage that this one reads from, here.

        Returns:
            The marker, or None where no run has made it.
        """
        kept = self.trial.shared.find(self._made_from)
        theirs = Marker.read(kept, self.kind) if kept is not None else None
        if kept is None or theirs is None:
            return None
        place_files(kept, self._place)
        shared = kept / _METRICS
        if shared.exists():
            path = self.trial.folder / _METRICS
            drop_records(path, self.name, first_epoch=0)
            with path.open("a", encoding="utf-8") as file:
                file.write(shared.read_text(encoding="utf-8"))
        marker = dataclasses.replace(theirs, inputs=self.inputs, upstream=upstream)
        marker.write(self.folder)
        # Of a run that was cut short before another one made the stage.
        remove_checkpoints(self.folder)
        return marker

    def keep(self) -> None:
        """Keeps the finished stage for other runs."""
        if self.trial.shared.folder is None:
            return
        files = _files_by_name(self.folder)
        curves = _files_by_name(self._curves)
        files |= {f"{_CURVES}/{name}": path for name, path in curves.items()}
        with tempfile.TemporaryDirectory() as temporary:
            lines = _lines_of(self.trial.folder / _METRICS, self.name)
            if lines:
                files[_METRICS] = Path(temporary) / _METRICS
                files[_METRICS].write_text("".join(lines), encoding="utf-8")
            self.trial.shared.keep(self._made_from, files)

    def _place(self, name: str) -> Path | None:
        """Returns where a kept file belongs."""
        if name in (MARKER, _METRICS):
            return None
        first, _, rest = name.partition("/")
        return self._curves / rest if first == _CURVES else self.folder / name


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Returns the files in a folder; what says that a stage has begun is left out."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f for f in files if f.name != STARTED}


def _lines_of(path: Path, stage: str) -> list[str]:
    """Returns the lines of `metrics.jsonl` that a stage wrote."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if json.loads(line)["stage"] == stage]
