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
import statistics
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

SWEEP = "sweep.json"
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
        base = self.config.changed(tuning_held_out=True)
        varied = {parameter.name for parameter in self.space}
        settings = {
            name: value
            for name, value in base.result_settings().items()
            # Where all else is varied around them, the settings themselves matter.
            if self.tuner == "axes" or name not in varied
        }
        return {
            "space": [str(parameter) for parameter in self.space],
            "tuner": self.tuner,
            "rule": self.rule,
            "max_points": self.max_points,
            "trials": list(self.config.trials),
            "settings": settings,
            "data": self._data,
            "versions": library_versions(),
        }

    @property
    def _data(self) -> dict[str, str]:
        """What the settings do not tell of what is learnt and started from."""
        start = Path(self.config.init_weights)
        own = self.config.dataset == "folder"
        return {
            "folder": str(Path(self.config.data_dir).resolve()) if own else "",
            "state": self._trial.images.source.state(),
            "init_weights": checksum(start) if start.is_file() else "",
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
        path = self.folder / SWEEP
        if path.exists() and read_json(path) != self.identity:
            raise PmalError(
                "A sweep's folder must be of that sweep alone. Received: "
                f"{path}, which tells of another one. Choose another --experiment, or "
                "move the folder away."
            )
        if not path.exists():
            write_json(path, self.identity)

    def config_of(self, values: Mapping[str, Any], epochs: int | None = None) -> Config:
        """Returns the settings of a point.

        Args:
            values: Of the settings that are varied.
            epochs: Of each stage, where the tuner chooses them.
        """
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


def trial_results(config: Config, rule: str) -> list[dict[str, Any]]:
    """Reads what a point's trials came to.

    Returns:
        Per trial that is evaluated: `trial`, `auroc` of the rule, `acc`.
    """
    found = []
    for trial in config.trials:
        path = config.run_folder / f"trial_{trial}" / "result.json"
        if path.exists():
            result = read_json(path)
            metrics = result["models"][result["method"]]
            found.append(
                {"trial": trial, "auroc": metrics[rule]["auroc"], "acc": metrics["acc"]}
            )
    return found


def objective_of(results: list[dict[str, Any]]) -> float:
    """Returns the mean AUROC over trials."""
    return statistics.fmean(result["auroc"] for result in results)
