"""The images of one trial: read on first use, and known by their fingerprints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pmal_tf.data.hashing import hash_ids
from pmal_tf.data.images import (
    LabelledImages,
    Source,
    lowest_of_each_class,
    proportional_share,
)
from pmal_tf.data.settings import DataSettings
from pmal_tf.data.sources import open_source
from pmal_tf.data.splits import (
    OpenSetSplit,
    apply_split,
    hold_out_classes,
    images_of_held_out,
    open_set_split,
)
from pmal_tf.runtime.files import read_json, write_json
from pmal_tf.runtime.seeds import derive_seed
from pmal_tf.runtime.settings import read_settings

DATA_RECORD = "data.json"


@dataclass(frozen=True)
class TrialImages:
    """The images of trial `number`; `data.json` in its `folder` records which."""

    settings: DataSettings
    number: int
    run_seed: int
    folder: Path

    @cached_property
    def source(self) -> Source:
        """The dataset."""
        return open_source(self.settings.dataset, self.settings)

    @cached_property
    def split(self) -> OpenSetSplit:
        """The known and unknown classes."""
        settings = self.settings
        split = open_set_split(
            self.source, settings.protocol, self.number, settings.known_classes
        )
        if not settings.tuning_held_out:
            return split
        return hold_out_classes(split, self._seed("held-out classes"))

    @property
    def unknown_is_estimate(self) -> bool:
        """Whether the unknown classes are held out of the known ones."""
        return self.source.unknown_is_estimate or self.settings.tuning_held_out

    @property
    def train(self) -> LabelledImages:
        """Training images of the known classes, labels are class indices."""
        return self._parts["training"]

    @property
    def test(self) -> LabelledImages:
        """All test images, label -1 for unknown classes."""
        return self._parts["test"]

    @property
    def calibration(self) -> LabelledImages:
        """Images of the known classes that only thresholds are set on; often none."""
        return self._parts["calibration"]

    def fingerprint(self, part: str) -> str:
        """Returns the hash of `training`, `test` or `calibration` images.

        That which was written down, where nothing that decides the images has changed:
        stages that are finished need no images. Otherwise they are read.

        Raises:
            PmalError: If they cannot be read.
        """
        if "_parts" not in vars(self) and self._stored:
            return self._stored[part]["sha256"]
        return self._record[part]["sha256"]

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        """All that decides which images these are."""
        settings = read_settings(self.settings)
        return {
            "of": {**settings, "seed": self.run_seed, "trial": self.number},
            "state": self.source.state(),
        }

    @cached_property
    def _stored(self) -> dict[str, Any] | None:
        """What is written down of these very images, if anything is."""
        path = self.folder / DATA_RECORD
        stored = read_json(path) if path.exists() else {}
        return stored if stored | self._provenance == stored else None

    @cached_property
    def _parts(self) -> dict[str, LabelledImages]:
        """Reads the images."""
        self.source.check()
        train, test = self.source.load()
        if self.settings.tuning_held_out:
            seed = self._seed("held-out images")
            train, test = images_of_held_out(self.source, self.split, train, seed)
        else:
            train, test = apply_split(self.source, self.split, train, test)
        is_withheld = proportional_share(
            train.label,
            hash_ids(train.example_id, "calibration images", self.run_seed),
            self.settings.calibration_fraction,
            start=np.random.default_rng(self.run_seed).random(),
        )
        calibration, train = train.take(is_withheld), train.take(~is_withheld)
        if most := self.settings.train_images_per_class:
            rank = hash_ids(train.example_id, "subset", self.run_seed)
            train = train.take(lowest_of_each_class(train.label, rank, most))
        unknown = int(test.is_unknown.sum())
        logging.info(
            "%s: %d training images, %d known and %d unknown test images%s",
            self.settings.dataset,
            len(train),
            len(test) - unknown,
            unknown,
            f", {len(calibration)} to set thresholds on" if len(calibration) else "",
        )
        parts = {"training": train, "test": test, "calibration": calibration}
        return {name: images.in_memory() for name, images in parts.items()}

    @cached_property
    def _record(self) -> dict[str, Any]:
        """What `data.json` says of the images that were read."""
        unknown = int(self.test.is_unknown.sum())
        counts = {
            "training": {"images": len(self.train)},
            "test": {"known": len(self.test) - unknown, "unknown": unknown},
            "calibration": {"images": len(self.calibration)},
        }
        return self._provenance | {
            part: {**count, "sha256": self._parts[part].fingerprint}
            for part, count in counts.items()
        }

    def write_record(self) -> None:
        """Writes down which images were read, if they were."""
        if "_parts" in vars(self):
            write_json(self.folder / DATA_RECORD, self._record)

    def _seed(self, purpose: str) -> int:
        """Returns a seed derived from (seed, trial, purpose)."""
        return derive_seed(self.run_seed, self.number, purpose)
