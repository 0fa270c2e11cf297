"""A sweep: run folders of its points, which share all that they can.

In `<workdir>/<experiment>-<hash>/`:

| | |
|---|---|
| `sweep.json` | what is swept |
| `tuner/` | KerasTuner's own records |
| `<name-value>__.../trial_<t>/` | a run folder per point and trial |
| `table.md`, `costs.json`, `<setting>.png`, `.svg` | results |
| `best.flags`, `best_objective.flags` | the best point, to be run again |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmal_tf.runtime.environment import library_versions
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import checksum, read_json, write_json
from pmal_tf.workflow.config import EXPORT, Config
from pmal_tf.workflow.tuning.space import Parameter

if TYPE_CHECKING:
    from pmal_tf.methods.trial import Trial

# No plus sign: TensorBoard's projector does not find a run with one in its name.
_SEPARATOR = "__"


@dataclass(frozen=True)
class Sweep:
    """What is swept, and where it is kept.

    Attributes:
        config: The settings around which; every point runs all its trials.
        space: What is varied.
        tuner: Kind of sweep, one of `pmal_tf.workflow.tuning.space.TUNERS`.
        rule: The score whose AUROC is the objective, as files call it.
        max_points: Points of a random or Bayesian sweep.
    """

    config: Config
    space: tuple[Parameter, ...]
    tuner: str = "axes"
    rule: str = "dr"
    max_points: int = 20

    @property
    def identity(self) -> dict[str, Any]:
        """All that the sweep depends on; another has another folder."""
        config, start = self.config, Path(self.config.init_weights)
        settings = config.changed(tuning_held_out=True).result_settings()
        if self.tuner != "axes":
            # Only where all else is varied around them do the settings matter.
            for parameter in self.space:
                settings.pop(parameter.name, None)
        own = config.dataset == "folder"
        return {
            "space": [str(parameter) for parameter in self.space],
            "tuner": self.tuner,
            "rule": self.rule,
            "max_points": self.max_points,
            "trials": list(config.trials),
            "settings": settings,
            # What the settings do not tell of what is learnt and started from.
            "data": {
                "folder": str(Path(config.data_dir).resolve()) if own else "",
                "state": self._trial.images.source.state(),
                "init_weights": checksum(start) if start.is_file() else "",
            },
            "versions": library_versions(),
        }

    @property
    def _trial(self) -> Trial:
        """The first trial."""
        from pmal_tf.workflow.experiment import open_trial

        return open_trial(self.config, self.config.trials[0])

    @cached_property
    def _stages(self) -> tuple[str, ...]:
        """The stages of a point: nothing is exported."""
        from pmal_tf.workflow.experiment import plan

        kinds = dict.fromkeys(s.kind for s in plan(self.config, self._trial))
        return tuple(kind for kind in kinds if kind != EXPORT)

    @property
    def folder(self) -> Path:
        """`<workdir>/<experiment>-<hash>`."""
        text = json.dumps(self.identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return Path(self.config.workdir) / f"{self.config.experiment}-{digest}"

    def open_folder(self) -> None:
        """Makes the folder, or checks that it is of this sweep.

        Raises:
            PmalError: If it is of another.
        """
        path = self.folder / "sweep.json"
        if not path.exists():
            write_json(path, self.identity)
        elif read_json(path) != self.identity:
            raise PmalError(
                "A sweep's folder must be of that sweep alone. Received: "
                f"{path}, which tells of another one. Choose another --experiment, or "
                "move the folder away."
            )

    def config_of(self, values: Mapping[str, Any], epochs: int | None = None) -> Config:
        """Returns the settings of a point; `epochs` where the tuner chooses them."""
        shown = {**values, **({"epochs": epochs} if epochs else {})}
        return self.config.changed(
            **shown,
            experiment=_SEPARATOR.join(f"{n}-{value}" for n, value in shown.items()),
            workdir=str(self.folder),
            # Whatever other runs have made is taken too.
            store_dir=str(self.config.store_folder),
            stages=self._stages,
            compare=(),
            tuning_held_out=True,
            overwrite=False,
        )
