"""Running the stages of a trial: each thing once, and never another's.

A stage's key is a hash of its name, the settings that it reads, what the stages that it
needs have made, the fingerprints of what else it reads, and the versions of what
computes. A result of that key is taken, whoever made it; else it is made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.runtime import distribution
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import Marker, checksum, differences, write_text
from pmal_tf.runtime.stage import Stage, Work
from pmal_tf.workflow.store import Result, Store, replace_records

_KEY_DIGITS = 32


def merged(stages: Iterable[Stage]) -> list[Stage]:
    """Returns stages in order, those of one name once.

    Raises:
        ValueError: If two of one name read different things.
    """
    found: dict[str, Stage] = {}
    for stage in stages:
        known = found.setdefault(stage.name, stage)
        if (known.reads, known.needs) != (stage.reads, stage.needs):
            raise ValueError(f"Two methods mean different things by {stage.name}")
    return list(found.values())


@dataclass
class Workflow:
    """Runs stages of one trial, in their order.

    Attributes:
        plan: All stages, each after those that it needs.
        store: Where results are kept.
        shown: The trial's folder.
        fingerprint: Of a name in `Stage.inputs`, what it is now.
        versions: Of all that computes, by name.
        label: What the log calls the trial.
        renew: Kinds of stages to make anew, whatever there is.
        begin: Called before a stage is made.
    """

    plan: Sequence[Stage]
    store: Store
    shown: Path
    fingerprint: Callable[[str], str]
    versions: Mapping[str, str]
    label: str = ""
    renew: Collection[str] = ()
    begin: Callable[[Stage], None] = lambda _: None

    def __post_init__(self) -> None:
        self.stages = {stage.name: stage for stage in self.plan}
        self._results: dict[str, Result] = {}

    def run(self, kinds: Collection[str]) -> None:
        """Runs the stages of some kinds, as far as they are not finished.

        Raises:
            PmalError: If a stage that one of them needs is of another kind, and is not
                finished.
        """
        wanted = [stage for stage in self.stages.values() if stage.kind in kinds]
        if distribution.several_hosts():
            # The chief fills a lost store before other hosts look there.
            if distribution.is_chief():
                for name in dict.fromkeys(n for stage in wanted for n in stage.needs):
                    with contextlib.suppress(PmalError):
                        self.finished(name)
                # Some may be made anew.
                self._results.clear()
            distribution.wait_for_all_hosts()
        for stage in wanted:
            self._run(stage)

    def finished(self, name: str) -> Result:
        """Returns the result that a stage has now, or raises a `PmalError`."""
        if name not in self._results:
            stage = self.stages[name]
            key = self._key(stage)
            result = self._find(stage, key)
            if result is None and distribution.is_chief():
                with self.store.claimed(name, key):
                    result = self._find(stage, key, adopts=True)
            if result is None:
                raise PmalError(
                    "Every stage before the wanted ones must be finished. Received: "
                    f"{name} of {self.shown}, which is not{self._since(stage)}. Run "
                    "the same command without --overwrite and without --stages: it "
                    "skips what is finished and makes what is not, or is older than "
                    "what it is made from."
                )
            self._results[name] = result
        return self._results[name]

    def _run(self, stage: Stage) -> None:
        """Takes or makes the result of one stage, and shows it."""
        name = f"{self.label}{stage.name}"
        key = self._key(stage)
        shown = Marker.read(self.shown / stage.name)
        verb = "skipped" if shown is not None and shown.key == key else "taken"
        renews = stage.kind in self.renew
        found = None if renews else self._find(stage, key)
        # All hosts do what the chief has seen.
        (makes,) = distribution.any_host([distribution.is_chief() and found is None])
        if makes:
            if shown is not None and shown.key != key:
                logging.info("%s: made anew%s", name, self._since(stage))
            if distribution.is_chief():
                with self.store.claimed(stage.name, key):
                    # Another command may have made it in the meantime.
                    found = None if renews else self._find(stage, key, adopts=True)
                    (makes,) = distribution.any_host([found is None])
                    if makes:
                        found = self._make(stage, key, name)
                    if found is not None:
                        # Before anybody could clear it as shown by nobody.
                        self.store.show(stage.name, found, self.shown)
            else:
                (makes,) = distribution.any_host([False])
                if makes:
                    self.begin(stage)
                    distribution.wait_for_all_hosts()  # The chief has made the folder.
                    if stage.distributed:
                        self._compute(stage, key)
        if found is not None and not makes:
            logging.info(
                "%s: finished before (%.1f s), %s", name, found.marker.seconds, verb
            )
        if distribution.is_chief() and found is not None:
            self.store.show(stage.name, found, self.shown)
        distribution.wait_for_all_hosts()
        # Hosts that did not make it read what the chief has written.
        self._results[stage.name] = found or self.finished(stage.name)

    def _find(self, stage: Stage, key: str, *, adopts: bool = False) -> Result | None:
        """Returns the result of a key, if there is one and all of it.

        Whoever has the right to make it `adopts` what only the trial still has.
        """
        found = self.store.find(stage.name, key)
        if found is None and adopts:
            found = self.store.adopt(stage.name, key, self.shown)
        if found is not None and not stage.is_there(found.marker.facts):
            return None
        return found

    def _reads(self, stage: Stage) -> dict[str, Any]:
        """Returns all that a stage reads beside results: settings, inputs, versions."""
        inputs = {name: self.fingerprint(name) for name in stage.inputs}
        versions = {f"version of {name}": v for name, v in self.versions.items()}
        return {**stage.reads, **inputs, **versions}

    def _needs(self, stage: Stage) -> dict[str, str]:
        """Returns the hashes of the results that a stage reads."""
        return {name: self.finished(name).marker.hash for name in stage.needs}

    def _key(self, stage: Stage) -> str:
        """Returns the hash of a stage's name and all that it reads."""
        content = [stage.name, self._reads(stage), self._needs(stage)]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]

    def _since(self, stage: Stage) -> str:
        """Says in what a stage differs from the one that is shown, if there is one."""
        marker = Marker.read(self.shown / stage.name)
        if marker is None:
            return ""
        changed = differences(marker.inputs, self._reads(stage))
        for name in stage.needs:
            known = self._results.get(name)
            if known is None or marker.upstream.get(name) != known.marker.hash:
                changed.append(f"{name} is another")
        return f", since {'; '.join(changed)}" if changed else ""

    def _make(self, stage: Stage, key: str, name: str) -> Result:
        """Makes a result, on from where a killed command was."""
        self.begin(stage)
        logging.info("%s: starts", name)
        began = time.perf_counter()
        # Lines and curves in the trial's folder may be of other settings: a result must
        # not keep those.
        mine = self.shown / f"making_{stage.name}.txt"
        resumes = self.store.making(stage.name, key).exists() and mine.exists()
        if not resumes or mine.read_text(encoding="utf-8") != key:
            replace_records(stage.name, stage.shows, self.shown, [])
        write_text(mine, key)
        folder = self.store.open(stage.name, key)
        distribution.wait_for_all_hosts()
        facts = self._compute(stage, key)
        marker = Marker(
            key=key,
            inputs=self._reads(stage),
            upstream=self._needs(stage),
            outputs={
                path.relative_to(folder).as_posix(): checksum(path)
                for path in sorted(_made(stage.name, folder))
            },
            seconds=time.perf_counter() - began,
            facts=facts,
            shows=stage.shows,
        )
        result = self.store.finish(stage.name, key, marker, self.shown)
        mine.unlink(missing_ok=True)
        logging.info("%s: done in %.1f s", name, marker.seconds)
        return result

    def _compute(self, stage: Stage, key: str) -> dict[str, Any]:
        """Runs a stage, on all devices if it can use them; returns its facts."""
        work = Work(
            stage=stage.name,
            key=key,
            folder=self.store.making(stage.name, key),
            shown=self.shown,
            results={name: self.finished(name).folder for name in stage.needs},
        )
        if not stage.distributed:
            return stage.run(work)
        with distribution.current().scope():
            return stage.run(work)


def _made(stage: str, folder: Path) -> Iterable[Path]:
    """Removes what only helped to make a result, and returns its files."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        helped = path.parent == folder / stage and path.match("step_*.npz")
        if helped or path.name.startswith(("writing.", "linking.")):
            path.unlink()
        else:
            yield path
