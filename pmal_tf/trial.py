"""One trial of an experiment: its settings, folder, data and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pmal_tf import distribution
from pmal_tf.config import Config
from pmal_tf.data.hashing import hash_ids
from pmal_tf.data.held_out import hold_out_classes, images_of_held_out
from pmal_tf.data.images import (
    LabelledImages,
    Source,
    SourceOptions,
    proportional_share,
    take_per_class,
)
from pmal_tf.data.pipeline import TrainingPipeline
from pmal_tf.data.sources import open_source
from pmal_tf.data.splits import OpenSetSplit, apply_split, open_set_split
from pmal_tf.environment import library_versions
from pmal_tf.errors import PmalError
from pmal_tf.mining.anchors import LEAST_PER_CLASS, check_anchors
from pmal_tf.mining.mine import MiningSettings
from pmal_tf.seeds import derive_seed
from pmal_tf.shared_files import FOLDER as SHARED
from pmal_tf.shared_files import SharedFiles
from pmal_tf.training.checkpoints import remove_checkpoints
from pmal_tf.training.fit import StageRecords
from pmal_tf.training.recipe import Recipe
from pmal_tf.workdir import MARKER, STARTED, checksum, read_json, write_json

DATA_RECORD = "data.json"


def source_options(config: Config) -> SourceOptions:
    """Returns where an experiment's dataset lies and how it is read."""
    names = SourceOptions.__dataclass_fields__
    return SourceOptions(**{name: getattr(config, name) for name in names})


@dataclass(frozen=True)
class TrialData:
    """The images of a trial.

    Attributes:
        train: Training images of the known classes.
        test: Test images, label -1 for unknown classes.
        calibration: Images of the known classes that thresholds are set on; often none.
        record: What `data.json` is to say of them.
    """

    train: LabelledImages
    test: LabelledImages
    calibration: LabelledImages
    record: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """What the stages of one trial share.

    Attributes:
        config: The experiment's settings.
        number: The trial.
    """

    config: Config
    number: int

    @property
    def folder(self) -> Path:
        """`runs/<experiment>/trial_<t>`."""
        return self.config.run_folder / f"trial_{self.number}"

    @cached_property
    def source(self) -> Source:
        """The dataset."""
        return open_source(self.config.dataset, source_options(self.config))

    @cached_property
    def split(self) -> OpenSetSplit:
        """The known and unknown classes."""
        config = self.config
        split = open_set_split(
            self.source, config.protocol, self.number, config.known_classes
        )
        if not config.tuning_held_out:
            return split
        return hold_out_classes(split, self.seed("held-out classes"))

    @cached_property
    def recipe(self) -> Recipe:
        """How networks are trained."""
        names = Recipe.__dataclass_fields__
        return Recipe(**{name: getattr(self.config, name) for name in names})

    @cached_property
    def mining_settings(self) -> MiningSettings:
        """How prototypes are mined.

        Raises:
            PmalError: If no prototypes can be mined so.
        """
        names = MiningSettings.__dataclass_fields__
        settings = MiningSettings(
            **{name: getattr(self.config, name) for name in names}
        )
        if settings.topology_anchors:
            least = LEAST_PER_CLASS * len(self.split.known)
            check_anchors(settings.topology_anchors, least)
        return settings

    @cached_property
    def _data(self) -> TrialData:
        """Loads the images, on first use: a run that skips every stage needs none.

        Raises:
            PmalError: If a model was trained on others.
        """
        train, test = self.source.load()
        if self.config.tuning_held_out:
            seed = self.seed("held-out images")
            train, test = images_of_held_out(self.source, self.split, train, seed)
        else:
            train, test = apply_split(self.source, self.split, train, test)
        rank = hash_ids(train.example_id, "calibration images", self.config.seed)
        is_withheld = proportional_share(
            *(train.label, rank, self.config.calibration_fraction),
            start=np.random.default_rng(self.config.seed).random(),
        )
        calibration, train = train.take(is_withheld), train.take(~is_withheld)
        rank = hash_ids(train.example_id, "subset", self.config.seed)
        train = take_per_class(train, self.config.train_images_per_class, rank)
        train, test = train.in_memory(), test.in_memory()
        calibration = calibration.in_memory()
        unknown = int(test.is_unknown.sum())
        record: dict[str, Any] = {
            "state": self.source.state(),
            "training": {"images": len(train), "sha256": train.fingerprint},
            "test": {
                "known": len(test) - unknown,
                "unknown": unknown,
                "sha256": test.fingerprint,
            },
            "calibration": {
                "images": len(calibration),
                "sha256": calibration.fingerprint,
            },
        }
        stored = self._stored_record
        if stored and stored["training"] != record["training"]:
            self._give_up_other_images()
        logging.info(
            "%s: %d training images, %d known and %d unknown test images%s",
            *(self.config.dataset, len(train), len(test) - unknown, unknown),
            f", {len(calibration)} to set thresholds on" if len(calibration) else "",
        )
        return TrialData(train, test, calibration, record)

    def _give_up_other_images(self) -> None:
        """Removes what training on other images left that was cut short.

        Raises:
            PmalError: If there is a model that was trained on them and is to stay.
        """
        anew = self.config.overwrite and "pretrain" in self.config.wanted_stages
        if (self.folder / "pretrain_0" / MARKER).exists() and not anew:
            raise PmalError(
                f"The training images must be those that {self.folder} was trained on."
                f" Received: other counts or pixels than {self._data_path} tells. "
                "Choose a new --experiment, train anew with --overwrite, or name the "
                "old copy with --data_dir."
            )
        if distribution.is_chief():
            for folder in self.folder.glob("pretrain_*"):
                remove_checkpoints(folder)

    @property
    def _data_path(self) -> Path:
        """Where it is written down which images a trial was made from."""
        return self.folder / DATA_RECORD

    @property
    def _stored_record(self) -> dict[str, Any]:
        """What is written down, if anything is."""
        return read_json(self._data_path) if self._data_path.exists() else {}

    @property
    def data_record(self) -> dict[str, Any]:
        """Counts and hashes of the images that the trial is made from.

        Of those that were read, else of those that were written down.
        """
        return self._data.record if "_data" in vars(self) else self._stored_record

    def read_images(self) -> None:
        """Reads the images, if they are not read yet.

        Raises:
            PmalError: If they cannot be read, or a model was trained on others.
        """
        _ = self._data

    def check_images(self) -> None:
        """Compares the images with those of the stages made before.

        Where their names, sizes or times have changed they are read, as far as they
        are still there; otherwise stages that are finished need no images.

        Raises:
            PmalError: If the training images are others.
        """
        stored = self._stored_record
        if not stored or stored.get("state", "") == self.source.state():
            return
        record = self._data.record
        if any(stored.get(n, record[n]) != record[n] for n in ("test", "calibration")):
            logging.warning("The test images have changed since %s.", self._data_path)
        elif stored["training"] == record["training"]:
            self.write_data_record()

    def write_data_record(self) -> None:
        """Writes down which images were read, if they were."""
        if "_data" in vars(self) and distribution.is_chief():
            write_json(self._data_path, self._data.record)

    @property
    def train(self) -> LabelledImages:
        """Training images of the known classes, labels are class indices."""
        return self._data.train

    @property
    def test(self) -> LabelledImages:
        """All test images, label -1 for unknown classes."""
        return self._data.test

    @property
    def calibration(self) -> LabelledImages:
        """Images of the known classes that only thresholds are set on; often none."""
        return self._data.calibration

    def seed(self, *purpose: str | int) -> int:
        """Returns a seed derived from (seed, trial, purpose)."""
        return derive_seed(self.config.seed, self.number, *purpose)

    def pipeline(self, *purpose: str | int) -> TrainingPipeline:
        """Returns the training pipeline of a stage.

        Args:
            *purpose: Names the order and augmentation; stages that are compared with
                each other share it.
        """
        augment = self.config.augment
        return TrainingPipeline(
            image=self.train.image,
            label=self.train.label,
            example_id=self.train.example_id,
            batch_size=self.config.batch_size,
            seed=self.seed("order", *purpose),
            augment=self.source.natural if augment == "auto" else augment == "on",
            rand_augment=self.config.rand_augment,
            rand_augment_magnitude=self.config.rand_augment_magnitude,
        )

    @cached_property
    def shared(self) -> SharedFiles:
        """What runs of the same workdir share; with `--share_stages`."""
        # Several hosts would have to agree on what there is.
        shares = self.config.share_stages and not distribution.several_hosts()
        return SharedFiles(
            Path(self.config.workdir) / SHARED if shares else None,
            # What is to be made anew must not come from the shelf.
            renew=self.config.overwrite,
        )

    def made_from(self, **parts: Any) -> dict[str, Any]:
        """Returns all that something depends on which is made from this trial's images.

        Args:
            **parts: What it depends on beside them and the versions of the libraries.
        """
        start = Path(self.config.init_weights)
        return {
            "trial": self.number,
            "known": list(self.split.known),
            "training": self.data_record["training"]["sha256"],
            "versions": library_versions(),
            "start": checksum(start) if start.is_file() else "",
            **parts,
        }

    def records(self, stage: str) -> StageRecords:
        """Returns where a training stage keeps its records."""
        tensorboard = self.folder / "tensorboard" / stage
        path = self.folder / stage / STARTED
        started = read_json(path) if path.exists() else {"inputs": {}, "upstream": {}}
        return StageRecords(
            stage=stage,
            folder=self.folder / stage,
            metrics=self.folder / "metrics.jsonl",
            tensorboard=tensorboard if self.config.tensorboard else None,
            identity={**started["inputs"], "made_from": started["upstream"]},
            checkpoint_minutes=self.config.checkpoint_minutes,
        )
