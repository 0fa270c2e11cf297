"""Settings of the data: which images, split how, shown to training how."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import Interval, check_settings, setting

# Stands for a share that depends on the dataset: a benchmark's training images are all
# for training; who trains a model of their own images wants a promise that is kept.
_AUTO_FRACTION = -1.0
_FOLDER_FRACTION = 0.1

# The settings that say how `TrainingPipeline` augments, by its names.
AUGMENTATION = (
    *("rand_augment", "rand_augment_magnitude", "cutout"),
    *("crop", "shift", "shift_fill", "flip"),
)


@dataclass(frozen=True)
class SourceOptions:
    """Where a dataset lies and how it is read."""

    data_dir: str = setting(
        "",
        "Folder of prepared TensorFlow Datasets, by default TFDS_DATA_DIR, then "
        "~/tensorflow_datasets; for --dataset=folder, the folder of images.",
        result=False,
        common=True,
    )
    cache_dir: str = setting(
        "",
        "Folder for images decoded once; by default $XDG_CACHE_HOME/pmal_tf or "
        "~/.cache/pmal_tf.",
        result=False,
    )
    image_size: int = setting(
        0,
        "Side of the square images in pixels; 0 for the dataset's own.",
        allowed=Interval(low=0, high=1024),
        common=True,
    )
    max_unreadable: int = setting(
        0,
        "Files of a folder of images that may be unreadable; they are passed over.",
        allowed=Interval(low=0),
        result=False,
    )
    held_out_classes: tuple[str, ...] = setting(
        (),
        "Classes of a folder of images that are not learnt but play the unknown.",
    )
    unknown_dataset: str = setting(
        "",
        "Prepared dataset, NAME or NAME:SPLIT, of imagenet_lt's unknown images.",
    )


@dataclass(frozen=True)
class DataSettings(SourceOptions):
    """Data.

    Raises:
        PmalError: If a value is not allowed.
    """

    dataset: str = setting(
        "digits",
        "Dataset to learn; python -m pmal_tf.data.prepare names them.",
        common=True,
    )
    protocol: str = setting(
        "paper",
        "Known and unknown classes: paper (as its text says), neal (6 digits or "
        "CIFAR-10 classes known and 4 not), arpl (CIFAR+10, CIFAR+50, TinyImageNet).",
        allowed=("paper", "neal", "arpl"),
        common=True,
    )
    known_classes: tuple[str, ...] = setting(
        (),
        "Names of the known classes, separated by commas; all others of the protocol's "
        "are unknown then. A name with a comma stands in double quotes.",
    )
    tuning_held_out: bool = setting(
        False,
        "For tuning: hold a third of the known classes out, at least one, and a fifth "
        "of the others' training images, and evaluate on these; test images are not "
        "looked at.",
    )
    train_images_per_class: int = setting(
        0,
        "Training images per known class, drawn by a hash of seed and id; 0 for all.",
        allowed=Interval(low=0),
        common=True,
    )
    calibration_fraction: float = setting(
        _AUTO_FRACTION,
        "Share of each class's training images that no training sees and that "
        "thresholds are set on; at 0 they are set on half of the known test images. "
        "-1: 0.1 for a folder of images, 0 for benchmarks.",
        allowed=Interval(low=-1, high=0.5),
    )
    augment: str = setting(
        "auto",
        "Shift and mirror: auto (natural images only), on, off.",
        allowed=("auto", "on", "off"),
    )
    shift: int = setting(
        4, "Pixels that an image is shifted by at most.", allowed=Interval(low=0)
    )
    shift_fill: str = setting(
        "zeros",
        "What a shift brings in: zeros, or the image mirrored at its edge (reflect).",
        allowed=("zeros", "reflect"),
    )
    flip: str = setting(
        "random",
        "Mirror an image in half of the epochs (random), or in every other one "
        "(alternating).",
        allowed=("random", "alternating"),
    )
    cutout: int = setting(
        0,
        "Side in pixels of a square that is painted gray after shifting; 0 for none.",
        allowed=Interval(low=0),
    )
    rand_augment: int = setting(
        0,
        "RandAugment operations per image, before shifting and mirroring; 0 for none.",
        allowed=Interval(low=0),
    )
    rand_augment_magnitude: int = setting(
        9,
        "Strength of RandAugment's operations.",
        allowed=Interval(low=0, high=30),
    )
    crop: str = setting(
        "shift",
        "What --augment does beside mirroring: shift, or show a random_resized part of "
        "8 to 100 % of the image's area.",
        allowed=("shift", "random_resized"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if -1 < self.calibration_fraction < 0:
            raise PmalError(
                "`calibration_fraction` must be a share between 0 and 0.5, or -1. "
                f"Received: calibration_fraction={self.calibration_fraction}"
            )
        if self.calibration_fraction == _AUTO_FRACTION:
            fraction = _FOLDER_FRACTION if self.dataset == "folder" else 0.0
            object.__setattr__(self, "calibration_fraction", fraction)
