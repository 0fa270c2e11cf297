"""Running the stages of a trial: skipping, resuming, and never mixing.

Every stage writes its own folder of the trial and, last, a marker with a hash of all it
was made from. A stage with a marker is skipped as long as nothing it depends on has
changed and its files are as they were made.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf import distribution
from pmal_tf.config import default_settings
from pmal_tf.environment import describe_environment
from pmal_tf.errors import PmalError
from pmal_tf.shared_stages import SharedStage
from pmal_tf.training.checkpoints import remove_checkpoints
from pmal_tf.trial import DATA_RECORD, Trial
from pmal_tf.workdir import (
    MARKER,
    STARTED,
    Marker,
    checksum,
    differences,
    read_json,
    write_json,
    write_text,
)

# Stages that are not worth sharing: they are quick, and tell of one run.
_OF_ONE_RUN = ("evaluate", "export")
_RECORDS = ("config.json", "flags.txt", "environment.json", DATA_RECORD)


@dataclass(frozen=True)
class Stage:
    """One step of a trial.

    Attributes:
        folder: Its name, and that of its folder in the trial's.
        kind: Its name in `--stages`.
        run: Does the work; returns the files it made, relative to the trial's folder,
            and facts for the marker.
        needs: Folders of the stages it reads from.
        is_stale: Whether a finished stage has to run again for a reason of its own.
        distributed: Whether all hosts take part; of them, the chief writes files.
    """

    folder: str
    kind: str
    run: Callable[[Trial], tuple[list[str], dict[str, Any]]]
    needs: tuple[str, ...] = ()
    is_stale: Callable[[Trial, Marker], bool] = field(default=lambda *_: False)
    distributed: bool = True


class Runner:
    """Runs stages of one trial, in the order they are asked for.

    Args:
        trial: The trial.
        stages: All stages of the plan.
    """

    def __init__(self, trial: Trial, stages: Sequence[Stage]) -> None:
        self.trial = trial
        self.stages = {stage.folder: stage for stage in stages}
        # Hash of each stage that is known to be finished and sound.
        self._hashes: dict[str, str] = {}

    def run(self, stage: Stage) -> None:
        """Runs a stage, unless it is finished.

        Raises:
            PmalError: If a stage before it is not finished, or it was made with other
                settings.
        """
        label = f"trial {self.trial.number}  {stage.folder}"
        upstream = {name: self.finished(name) for name in stage.needs}
        marker = None
        if not self.trial.config.overwrite:
            marker = Marker.read(self._folder(stage), stage.kind)
        if marker is not None and marker.upstream != upstream:
            logging.info("%s: what it was made from has changed", label)
        elif marker is not None and self._stands_as_made(stage, marker):
            logging.info("%s: finished before (%.1f s), skipped", label, marker.seconds)
            self._hashes[stage.folder] = marker.hash
            return
        # Before anything is touched; an export needs no images.
        self.trial.source.check()
        if stage.kind != "export":
            self.trial.read_images()
        logging.info("%s: starts", label)
        # All hosts have decided by the files as they are before the chief changes them.
        distribution.wait_for_all_hosts()
        if distribution.is_chief():
            with self._folder_of_its_own(stage, upstream):
                self._hashes[stage.folder] = self._make(stage, upstream, label)
        else:
            self._assist(stage)
        # They read what it has written.
        distribution.wait_for_all_hosts()

    def finished(self, name: str) -> str:
        """Returns the hash of a stage that others read from.

        Args:
            name: The stage's folder.

        Raises:
            PmalError: If it is not finished, not sound, or older than what it was made
                from.
        """
        if name in self._hashes:
            return self._hashes[name]
        stage = self.stages[name]
        marker = Marker.read(self._folder(stage), stage.kind)
        state = "is not finished"
        if marker is not None:
            state = "was made with other settings or from stages that changed since"
            upstream = {need: self.finished(need) for need in stage.needs}
            if marker.upstream == upstream and self._stands_as_made(stage, marker):
                self._hashes[name] = marker.hash
                return marker.hash
        raise PmalError(
            f"Every stage before the wanted ones must be finished. Received: {name} of "
            f"{self.trial.folder}, which {state}. Run the same command without "
            "--overwrite and without --stages: it skips what is finished and makes "
            "what is not, or is older than what it is made from."
        )

    def _folder(self, stage: Stage) -> Path:
        """Returns a stage's folder."""
        return self.trial.folder / stage.folder

    def _inputs(self, stage: Stage) -> dict[str, Any]:
        """Returns what a stage's marker keeps of the settings."""
        config = self.trial.config
        return config.inputs_of(stage.kind) | {"trial": self.trial.number}

    def _stands_as_made(self, stage: Stage, marker: Marker) -> bool:
        """Tells whether a stage stands as it was made, with these settings.

        Settings that only the evaluation depends on may change: it is cheap, and made
        anew without a word.

        Raises:
            PmalError: If training or mining had other settings, or files were changed.
        """
        inputs, trained = self._inputs(stage), self.trial.config.trained_settings
        # A setting that is newer than the marker had its default when it was made.
        stored = {**default_settings(), **marker.inputs}
        stored = {name: stored.get(name) for name in inputs}
        changed = differences(
            {name: stored[name] for name in inputs if name in trained},
            {name: inputs[name] for name in inputs if name in trained},
        )
        if changed:
            raise PmalError(
                f"Stage {stage.folder} of {self.trial.folder} was made with other "
                f"settings. Received: {'; '.join(changed)}. Choose a new --experiment, "
                f"or make it anew with --overwrite --stages={stage.kind}."
            )
        marker.check_outputs(self.trial.folder, stage.kind)
        return stored == inputs and not stage.is_stale(self.trial, marker)

    @contextmanager
    def _folder_of_its_own(
        self, stage: Stage, upstream: dict[str, str]
    ) -> Iterator[None]:
        """Prepares a stage's folder; after a failure all is as it was before.

        | the folder holds                   | then                                   |
        |------------------------------------|----------------------------------------|
        | a finished stage                   | it moves aside until the new one is    |
        |                                    | done, and comes back if that fails     |
        | a stage cut short, made from the   | it goes on from its checkpoints; a     |
        | same things                        | failure leaves them                    |
        | a stage cut short, made from other | it is removed                          |
        | things, or --overwrite             |                                        |
        | nothing                            | it is made                             |
        """
        folder = self._folder(stage)
        aside = folder.with_name(f"{folder.name}.old")
        started = {"inputs": self._inputs(stage), "upstream": upstream}
        path = folder / STARTED
        replaced = (folder / MARKER).exists()
        if replaced:
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        elif self.trial.config.overwrite or (
            path.exists() and read_json(path) != started
        ):
            shutil.rmtree(folder, ignore_errors=True)
        records = {
            file: file.read_text(encoding="utf-8")
            for file in (self.trial.folder / name for name in _RECORDS)
            if file.exists()
        }
        try:
            if not path.exists():
                curves = self.trial.folder / "tensorboard" / stage.folder
                shutil.rmtree(curves, ignore_errors=True)
                write_json(path, started)
            self._record_settings()
            yield
        except BaseException:
            if replaced:
                shutil.rmtree(folder, ignore_errors=True)
                aside.rename(folder)
                for file, text in records.items():
                    write_text(file, text)
            raise
        path.unlink()
        shutil.rmtree(aside, ignore_errors=True)

    def _record_settings(self) -> None:
        """Writes what is needed to repeat the trial."""
        config, folder = self.trial.config, self.trial.folder
        number = self.trial.number
        write_json(folder / "config.json", {**vars(config), "trial": number})
        alone = dataclasses.replace(config, trials=(number,), overwrite=False)
        write_text(folder / "flags.txt", alone.to_flags())
        write_json(folder / "environment.json", describe_environment(config.seed))
        self.trial.write_data_record()

    def _compute(self, stage: Stage) -> tuple[list[str], dict[str, Any]]:
        """Runs a stage, on all devices if it can use them."""
        if not stage.distributed:
            return stage.run(self.trial)
        with distribution.current().scope():
            return stage.run(self.trial)

    def _assist(self, stage: Stage) -> None:
        """Takes part in a stage that the chief runs, once it has made the folder."""
        distribution.wait_for_all_hosts()
        if stage.distributed:
            self._compute(stage)

    def _make(self, stage: Stage, upstream: dict[str, str], label: str) -> str:
        """Runs a stage and writes its marker, whose hash it returns."""
        trial = self.trial
        shared = self._shared(stage)
        marker = shared.take(upstream) if shared is not None else None
        if marker is not None:
            logging.info("%s: shared, took %.1f s once", label, marker.seconds)
            return marker.hash
        began = time.perf_counter()
        distribution.wait_for_all_hosts()
        made, facts = self._compute(stage)
        outputs = {name: checksum(trial.folder / name) for name in made}
        seconds = time.perf_counter() - began
        marker = Marker(self._inputs(stage), upstream, outputs, seconds, facts)
        marker.write(self._folder(stage))
        remove_checkpoints(self._folder(stage))
        logging.info("%s: done in %.1f s", label, seconds)
        if shared is not None:
            shared.keep()
        return marker.hash

    def _shared(self, stage: Stage) -> SharedStage | None:
        """Returns a stage as runs share it, None for those that tell of one run."""
        if stage.kind in _OF_ONE_RUN:
            return None
        folder = self.trial.folder
        markers = {
            name: Marker.read(folder / name, self.stages[name].kind)
            for name in stage.needs
        }
        read = {name: marker.outputs for name, marker in markers.items() if marker}
        return SharedStage(
            self.trial, stage.folder, stage.kind, self._inputs(stage), read
        )
