"""What the stages of one trial share: images, network, recipe, seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from pmal_tf.backbones.build import build_network
from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.settings import DataSettings
from pmal_tf.data.trial_images import TrialImages
from pmal_tf.runtime import distribution
from pmal_tf.runtime.device_settings import DeviceSettings
from pmal_tf.runtime.seeds import derive_seed
from pmal_tf.runtime.settings import read_settings
from pmal_tf.runtime.stage import METRICS, TENSORBOARD, Work
from pmal_tf.training.fit import StageRecords
from pmal_tf.training.recipe import Recipe

# What a training stage reads beside settings: the images, and the file it starts from.
TRAINING, START = "training", "init_weights"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: The trial.
        run_seed: The seed of the run.
        images: Its images, read on first use.
        network: Settings of the network.
        recipe: How networks are trained.
        devices: Settings of the machine.
    """

    number: int
    run_seed: int
    images: TrialImages
    network: NetworkSettings
    recipe: Recipe
    devices: DeviceSettings

    @property
    def data(self) -> DataSettings:
        """Settings of the data."""
        return self.images.settings

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K known classes."""
        return self.images.split.known

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def seeds_read(self) -> dict[str, Any]:
        """What everything that draws reads."""
        return {"seed": self.run_seed, "trial": self.number}

    @cached_property
    def training_reads(self) -> dict[str, Any]:
        """The settings that every training stage reads.

        Which images are learnt is told by their fingerprint, not by settings: two
        datasets that know the same classes share what is trained on them.
        """
        shown = ("rand_augment", "rand_augment_magnitude")
        return {
            **self.seeds_read,
            **read_settings(self.network),
            **read_settings(self.recipe),
            **read_settings(self.data, *shown),
            "augment": self.augments,
            **self._replicas_read,
        }

    @property
    def _replicas_read(self) -> dict[str, Any]:
        """How many replicas there are, where each has a BatchNorm of its own."""
        if self.recipe.sync_batch_norm:
            return {}
        return {"replicas": distribution.replicas()}

    @property
    def training_inputs(self) -> tuple[str, ...]:
        """What every training stage reads beside settings."""
        return (TRAINING, START) if self.network.init_weights else (TRAINING,)

    @property
    def augments(self) -> bool:
        """Whether training images are shifted and mirrored."""
        augment = self.data.augment
        return self.images.source.natural if augment == "auto" else augment == "on"

    def seed(self, *purpose: str | int) -> int:
        """Returns a seed derived from (seed, trial, purpose)."""
        return derive_seed(self.run_seed, self.number, *purpose)

    def pipeline(self, *purpose: str | int) -> TrainingPipeline:
        """Returns the training pipeline of a stage.

        Args:
            *purpose: Names the order and augmentation; stages that are compared with
                each other share it.
        """
        train = self.images.train
        return TrainingPipeline(
            image=train.image,
            label=train.label,
            example_id=train.example_id,
            batch_size=self.recipe.batch_size,
            seed=self.seed("order", *purpose),
            augment=self.augments,
            rand_augment=self.data.rand_augment,
            rand_augment_magnitude=self.data.rand_augment_magnitude,
        )

    def new_classifier(
        self, *purpose: str | int, embedding_dropout: float = 0.0
    ) -> keras.Model:
        """Returns a classifier for a purpose, with weights that are not trained here.

        They are fresh; with `--init_weights` only the head is, and all else is the
        file's. Classifiers of several purposes then differ by their heads, and by the
        order of images and dropout in training.

        Raises:
            PmalError: If the file of `--init_weights` cannot be started from.
        """
        keras.utils.set_random_seed(self.seed("weights", *purpose))
        return build_network(
            self.network,
            self.images.train.image.shape[1:],
            self.num_classes,
            embedding_dropout=embedding_dropout,
        )

    def records(self, work: Work) -> StageRecords:
        """Returns where a training stage keeps its records."""
        shown = work.shown / TENSORBOARD / work.stage
        return StageRecords(
            stage=work.stage,
            folder=work.folder / work.stage,
            metrics=work.shown / METRICS,
            tensorboard=shown if self.devices.tensorboard else None,
            identity={"made_from": work.key},
            checkpoint_minutes=self.devices.checkpoint_minutes,
        )
