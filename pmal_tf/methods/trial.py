"""What the stages of one trial share: images, network, recipe, seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras

from pmal_tf.backbones.build import build_network
from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.backbones.whitening import adapt_whitening
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.settings import AUGMENTATION, DataSettings
from pmal_tf.data.trial_images import TrialImages
from pmal_tf.runtime import distribution
from pmal_tf.runtime.seeds import derive_seed
from pmal_tf.runtime.settings import DeviceSettings, read_settings
from pmal_tf.runtime.stage import METRICS, TENSORBOARD, Stage, Work
from pmal_tf.training.fit import StageRecords, is_trained, save_trained
from pmal_tf.training.recipe import Recipe

# What a training stage reads beside settings: the images, and the file it starts from.
TRAINING, START = "training", "init_weights"


@dataclass(frozen=True)
class Trial:
    """One trial: its number, the run's seed, its images and the settings in use."""

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
    def augments(self) -> bool:
        """Whether training images are shifted and mirrored."""
        augment = self.data.augment
        return self.images.source.natural if augment == "auto" else augment == "on"

    @property
    def seeds_read(self) -> dict[str, Any]:
        """What everything that draws reads."""
        return {"seed": self.run_seed, "trial": self.number}

    @property
    def continued(self) -> Trial:
        """The trial as stages see it that go on from a trained classifier."""
        return replace(self, recipe=self.recipe.continued)

    @cached_property
    def training_reads(self) -> dict[str, Any]:
        """The settings that every training stage reads.

        Which images are learnt is in their fingerprint, not in settings: two datasets
        that know the same classes share what is trained on them.
        """
        reads = {
            **self.seeds_read,
            **read_settings(self.network),
            **read_settings(self.recipe.first),
            **read_settings(self.data, *AUGMENTATION),
            "augment": self.augments,
        }
        if not self.recipe.sync_batch_norm:
            # Each replica has a BatchNorm of its own.
            reads["replicas"] = distribution.replicas()
        return reads

    def training_stage(
        self,
        name: str,
        train: Callable[[Work, StageRecords], keras.Model],
        *,
        kind: str = "",
        needs: tuple[str, ...] = (),
        reads: Mapping[str, Any] | None = None,
        inputs: tuple[str, ...] = (),
    ) -> Stage:
        """Returns a stage that saves what `train` returns as its `model.keras`.

        Arguments are those of `Stage`; `kind` is by default the name, `reads` and
        `inputs` come beside what every training stage reads.
        """

        def run(work: Work) -> dict[str, Any]:
            shown = work.shown / TENSORBOARD / name
            records = StageRecords(
                stage=name,
                folder=work.folder / name,
                metrics=work.shown / METRICS,
                tensorboard=shown if self.devices.tensorboard else None,
                checkpoint_minutes=self.devices.checkpoint_minutes,
            )
            if not is_trained(records):
                save_trained(train(work, records), records)
            return {}

        start = (START,) if self.network.init_weights else ()
        read = {**self.training_reads, **(reads or {})}
        inputs = (TRAINING, *start, *inputs)
        return Stage(name, kind or name, run, needs, read, inputs, (name,))

    def seed(self, *purpose: str | int) -> int:
        """Returns a seed derived from (seed, trial, purpose)."""
        return derive_seed(self.run_seed, self.number, *purpose)

    def pipeline(self, *purpose: str | int) -> TrainingPipeline:
        """Returns the training images, in an order and augmented for a purpose.

        Stages that are compared with each other share the purpose.
        """
        train = self.images.train
        return TrainingPipeline(
            image=train.image,
            label=train.label,
            example_id=train.example_id,
            batch_size=self.recipe.batch_size,
            seed=self.seed("order", *purpose),
            augment=self.augments,
            **read_settings(self.data, *AUGMENTATION),
        )

    def new_classifier(
        self, *purpose: str | int, embedding_dropout: float = 0.0
    ) -> keras.Model:
        """Returns a classifier for a purpose, with weights that are not trained here.

        They are fresh; with `--init_weights` only the head is, and all else is the
        file's. Classifiers of several purposes then differ by their heads, and by the
        order of images and dropout in training.

        Raises:
            PmalError: If the file of `--init_weights` cannot be started from, or the
                backbone's whitening not be adapted to the training images.
        """
        keras.utils.set_random_seed(self.seed("weights", *purpose))
        image = self.images.train.image
        network = build_network(
            self.network,
            image.shape[1:],
            self.num_classes,
            embedding_dropout=embedding_dropout,
        )
        adapt_whitening(network, image)
        return network
