"""Every setting of a run: declared once, read from flags in one function, validated.

Each field of `Config` is a flag of the same name. Its metadata give the help text, the
allowed values, and the first stage that depends on it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from pmal_tf.errors import PmalError
from pmal_tf.flagfiles import expand_flagfiles, experiment_name
from pmal_tf.settings import Interval, check_setting, kind_of, setting

STAGES = ("pretrain", "mine", "optimize", "control", "evaluate", "export")

# Stages whose settings a stage depends on, itself included.
_DEPENDS_ON = {
    "pretrain": ("pretrain",),
    "mine": ("pretrain", "mine"),
    "optimize": ("pretrain", "mine", "optimize"),
    "control": ("pretrain",),
    "evaluate": ("pretrain", "mine", "optimize", "evaluate"),
    "export": ("pretrain", "mine", "optimize", "evaluate", "export"),
}


# Stands for a share that depends on the dataset: a benchmark's training images are all
# for training; who trains a model of their own images wants a promise that is kept.
_AUTO_FRACTION = -1.0
_FOLDER_FRACTION = 0.1

_POSITIVE = Interval(low=0, open_low=True)
_AT_LEAST_ONE = Interval(low=1)
_NOT_NEGATIVE = Interval(low=0)


@dataclass(frozen=True)
class Config:
    """The settings of an experiment; defaults are the paper's values.

    Raises:
        PmalError: If a value is not allowed.
    """

    experiment: str = setting(
        "",
        "Name of the run folder; by default the flagfiles' stems joined by +, or the "
        "dataset.",
    )
    dataset: str = setting(
        "digits",
        "Dataset to learn.",
        stage="pretrain",
        allowed=(
            *("digits", "mnist", "svhn", "cifar10", "cifar_plus_10", "cifar_plus_50"),
            *("tiny_imagenet", "imagenet100", "imagenet200", "imagenet_lt", "folder"),
        ),
    )
    data_dir: str = setting(
        "",
        "Folder of prepared TensorFlow Datasets, by default TFDS_DATA_DIR, then "
        "~/tensorflow_datasets; for --dataset=folder, the folder of images.",
    )
    cache_dir: str = setting(
        "",
        "Folder for images decoded once; by default $XDG_CACHE_HOME/pmal_tf or "
        "~/.cache/pmal_tf.",
    )
    image_size: int = setting(
        0,
        "Side of the square images in pixels; 0 for the dataset's own.",
        stage="pretrain",
        allowed=Interval(low=0, high=1024),
    )
    protocol: str = setting(
        "paper",
        "Known and unknown classes: paper (as its text says), neal (6 digits or "
        "CIFAR-10 classes known and 4 not), arpl (CIFAR+10, CIFAR+50, TinyImageNet).",
        stage="pretrain",
        allowed=("paper", "neal", "arpl"),
    )
    known_classes: tuple[str, ...] = setting(
        (),
        "Names of the known classes, separated by commas; all others of the protocol's "
        "are unknown then. A name with a comma stands in double quotes.",
        stage="pretrain",
    )
    held_out_classes: tuple[str, ...] = setting(
        (),
        "Classes of a folder of images that are not learnt but play the unknown.",
        stage="pretrain",
    )
    unknown_dataset: str = setting(
        "",
        "Prepared dataset, NAME or NAME:SPLIT, of imagenet_lt's unknown images.",
        stage="evaluate",
    )
    max_unreadable: int = setting(
        0,
        "Files of a folder of images that may be unreadable; they are passed over.",
        allowed=_NOT_NEGATIVE,
    )
    tuning_held_out: bool = setting(
        False,
        "For tuning: hold a third of the known classes out, at least one, and a fifth "
        "of the others' training images, and evaluate on these; test images are not "
        "looked at.",
        stage="pretrain",
    )
    share_stages: bool = setting(
        False,
        "Take stages, embeddings and robustness that another run of --workdir has made "
        "from the same things, and leave one's own for others, under "
        "<workdir>/shared.",
    )
    trials: tuple[int, ...] = setting(
        (0,), "Trials to run, e.g. 0,1,2.", allowed=_NOT_NEGATIVE
    )
    stages: tuple[str, ...] = setting(
        STAGES, "Stages to run; finished ones are skipped.", allowed=STAGES
    )
    seed: int = setting(
        0, "Seed of everything random.", stage="pretrain", allowed=_NOT_NEGATIVE
    )
    deterministic: bool = setting(
        False, "Use only GPU operations that give the same bits every time; slower."
    )
    workdir: str = setting("runs", "Folder of run folders.")
    export_dir: str = setting("saved_models", "Folder of exported models.")
    overwrite: bool = setting(
        False, "Make the stages named by --stages anew, whatever the run folder holds."
    )
    tensorboard: bool = setting(True, "Write TensorBoard events into the run folder.")
    train_images_per_class: int = setting(
        0,
        "Training images per known class, drawn by a hash of seed and id; 0 for all.",
        stage="pretrain",
        allowed=_NOT_NEGATIVE,
    )
    augment: str = setting(
        "auto",
        "Shift by up to 4 pixels and mirror: auto (natural images only), on, off.",
        stage="pretrain",
        allowed=("auto", "on", "off"),
    )
    rand_augment: int = setting(
        0,
        "RandAugment operations per image, before shifting and mirroring; 0 for none.",
        stage="pretrain",
        allowed=_NOT_NEGATIVE,
    )
    rand_augment_magnitude: int = setting(
        9,
        "Strength of RandAugment's operations.",
        stage="pretrain",
        allowed=Interval(low=0, high=30),
    )
    backbone: str = setting(
        "oscri",
        "Backbone network.",
        stage="pretrain",
        allowed=("oscri", "wrn_40_4", "resnet50"),
    )
    init_weights: str = setting(
        "",
        "Keras model (.keras) to start from in place of a fresh backbone: functional, "
        "takes RGB images on the 0-255 scale, and its last layer, which is replaced, "
        "is linear. --backbone, --width and --dropout do not matter then.",
        stage="pretrain",
    )
    width: float = setting(
        1.0,
        "Multiplier of the backbone's channels.",
        stage="pretrain",
        allowed=_POSITIVE,
    )
    dropout: float = setting(
        0.2,
        "Dropout rate of the backbone.",
        stage="pretrain",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    epochs: int = setting(
        600, "Epochs of each training stage.", stage="pretrain", allowed=_AT_LEAST_ONE
    )
    batch_size: int = setting(
        128, "Images per training step.", stage="pretrain", allowed=_AT_LEAST_ONE
    )
    optimizer: str = setting(
        "adam", "Optimiser.", stage="pretrain", allowed=("adam", "sgd")
    )
    learning_rate: float = setting(
        0.01, "Learning rate at the start.", stage="pretrain", allowed=_POSITIVE
    )
    momentum: float = setting(
        0.9,
        "Adam's beta_1, or SGD's momentum.",
        stage="pretrain",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    weight_decay: float = setting(
        5e-4, "Weight decay.", stage="pretrain", allowed=_NOT_NEGATIVE
    )
    decoupled_weight_decay: bool = setting(
        False, "Decay beside the gradient (AdamW), not in it.", stage="pretrain"
    )
    label_smoothing: float = setting(
        0.0,
        "Share of a label that is spread evenly over all classes.",
        stage="pretrain",
        allowed=Interval(low=0, high=1, open_high=True),
    )
    schedule: str = setting(
        "step",
        "Learning rate: step (divided by 10), cosine (to 0), cosine_restarts (to 0, "
        "and again from the start, --restarts times) or constant.",
        stage="pretrain",
        allowed=("step", "cosine", "cosine_restarts", "constant"),
    )
    restarts: int = setting(
        2,
        "Restarts of the cosine_restarts schedule.",
        stage="pretrain",
        allowed=_AT_LEAST_ONE,
    )
    warmup_epochs: int = setting(
        0,
        "Epochs over which the learning rate rises from 0 first, in any schedule.",
        stage="pretrain",
        allowed=_NOT_NEGATIVE,
    )
    drop_every: int = setting(
        120,
        "Epochs between drops of the step schedule.",
        stage="pretrain",
        allowed=_AT_LEAST_ONE,
    )
    precision: str = setting(
        "float32",
        "Number type of the backbone's arithmetic.",
        stage="pretrain",
        allowed=("float32", "float64", "mixed_bfloat16", "mixed_float16"),
    )
    jit: str = setting(
        "auto",
        "Compile training steps with XLA: on, off, or auto (where there is one GPU).",
        stage="pretrain",
        allowed=("auto", "on", "off"),
    )
    steps_per_execution: int = setting(
        1,
        "Training steps between two returns to Python; more helps fast GPUs.",
        allowed=_AT_LEAST_ONE,
    )
    checkpoint_minutes: float = setting(
        10.0, "Longest time without a checkpoint within an epoch.", allowed=_POSITIVE
    )
    strategy: str = setting(
        "default",
        "One device (default), all GPUs of this host (mirrored), or all hosts of "
        "TF_CONFIG (multi_worker).",
        allowed=("default", "mirrored", "multi_worker"),
    )
    sync_batch_norm: bool = setting(
        True,
        "Under several replicas, let BatchNorm see the global batch.",
        stage="pretrain",
    )
    worker_timeout_seconds: int = setting(
        300,
        "How long to wait for the other hosts of TF_CONFIG.",
        allowed=_AT_LEAST_ONE,
    )
    num_models: int = setting(
        2,
        "Number U of pre-trained classifiers.",
        stage="pretrain",
        allowed=Interval(low=2),
    )
    epsilon: float = setting(
        0.7,
        "Candidates have at least this share of their class's best robustness.",
        stage="mine",
        allowed=Interval(low=0, high=1, open_low=True),
    )
    prototypes_per_class: int = setting(
        10,
        "Number T of prototypes per class.",
        stage="mine",
        allowed=_AT_LEAST_ONE,
    )
    topology_norm: str = setting(
        "rms",
        "Exponent of Eq. 7: rms (divided by sqrt(N)) or literal (as printed).",
        stage="mine",
        allowed=("rms", "literal"),
    )
    quality: str = setting(
        "robustness",
        "What makes a training image a candidate: the paper's robustness, or a rival "
        "of its Table 4; none takes every image.",
        stage="mine",
        allowed=("robustness", "probability", "deep_ensembles", "mc_dropout", "none"),
    )
    diversity: str = setting(
        "algorithm1",
        "How prototypes are chosen among candidates: the paper's Algorithm 1, or a "
        "rival of its Table 4; none takes the best.",
        stage="mine",
        allowed=("algorithm1", "random", "kmeans", "none"),
    )
    candidate_rule: str = setting(
        "matched",
        "Candidates of a quality other than robustness: matched (as many per class as "
        "robustness has) or literal (by --epsilon).",
        stage="mine",
        allowed=("matched", "literal"),
    )
    topology_anchors: int = setting(
        0,
        "Images that every image is compared with, drawn class by class, for an "
        "estimate of the robustness; 0 for all.",
        stage="mine",
        allowed=_NOT_NEGATIVE,
    )
    embedding_precision: str = setting(
        "trained",
        "Number type of the networks' arithmetic when they embed the training images; "
        "trained: as in training.",
        stage="mine",
        allowed=("trained", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    mining_dtype: str = setting(
        "float32",
        "Number type of distances in mining; sums are float64.",
        stage="mine",
        allowed=("float32", "float64"),
    )
    mining_memory_mb: int = setting(
        2048,
        "Memory in MiB for what grows with the number of images in mining.",
        allowed=_AT_LEAST_ONE,
    )
    mining_repeats: int = setting(
        0,
        "Times that mining is repeated with other classifiers, for a figure of how "
        "much prototypes vary; each trains --num_models more.",
        stage="mine",
        allowed=_NOT_NEGATIVE,
    )
    margin: float = setting(
        0.5,
        "Margin delta of Eq. 9.",
        stage="optimize",
        allowed=Interval(low=0, high=2),
    )
    prototype_weight: float = setting(
        1.0, "Weight lambda_p of Eq. 10.", stage="optimize", allowed=_NOT_NEGATIVE
    )
    set_distance: str = setting(
        "attention",
        "Distance to a class: to the attention-weighted mean of its prototypes, Eq. 11 "
        "(attention), or to its nearest prototype (nearest).",
        stage="optimize",
        allowed=("attention", "nearest"),
    )
    prototype_mode: str = setting(
        "joint",
        "In every step, all prototypes pass through the network with the batch "
        "(joint), or by themselves in inference mode without a gradient (inference), "
        "or only a few do with the batch while the others stand as they were last "
        "embedded (bank).",
        stage="optimize",
        allowed=("joint", "inference", "bank"),
    )
    prototype_gradient: bool = setting(
        True,
        "Let the gradient flow through the prototypes that pass with the batch.",
        stage="optimize",
    )
    prototype_every: int = setting(
        1,
        "Steps between two embeddings of the prototypes with "
        "--prototype_mode=inference.",
        stage="optimize",
        allowed=_AT_LEAST_ONE,
    )
    prototype_slice: int = setting(
        6,
        "Prototypes in every step with --prototype_mode=bank.",
        stage="optimize",
        allowed=_AT_LEAST_ONE,
    )
    init: str = setting(
        "pretrained",
        "Start of the optimisation: pretrained (M^1) or scratch.",
        stage="optimize",
        allowed=("pretrained", "scratch"),
    )
    control: bool = setting(
        False,
        "Also train M^1 on with the plain loss, for a fair comparison.",
        stage="evaluate",
    )
    reject_rate: float = setting(
        0.05,
        "Share of known images that the exported model's threshold may reject.",
        stage="evaluate",
        allowed=Interval(low=0, high=1, open_low=True, open_high=True),
    )
    calibration_fraction: float = setting(
        _AUTO_FRACTION,
        "Share of each class's training images that no training sees and that "
        "thresholds are set on; at 0 they are set on half of the known test images. "
        "-1: 0.1 for a folder of images, 0 for benchmarks.",
        stage="pretrain",
        allowed=Interval(low=-1, high=0.5),
    )
    rule: str = setting(
        "dr",
        "Score by which the exported model rejects: distance to the prototypes (dr), 1 "
        "- largest probability (pr), or - largest logit (mls).",
        stage="export",
        allowed=("dr", "pr", "mls"),
    )
    export_xla: bool = setting(
        False,
        "Also export a signature serving_images_xla, whose network XLA compiles for "
        "each batch size; for GPUs.",
        stage="export",
    )
    tflite: tuple[str, ...] = setting(
        (),
        "Also convert the exported model to TensorFlow Lite, with weights as float16 "
        "or arithmetic as int8.",
        stage="export",
        allowed=("float16", "int8"),
    )
    keep_versions: int = setting(
        0,
        "Exported versions of a trial, the newest, that are kept when one is "
        "exported; 0 for all.",
        allowed=_NOT_NEGATIVE,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_setting(field, getattr(self, field.name))
        if not self.experiment:
            object.__setattr__(self, "experiment", self.dataset)
        if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", self.experiment):
            raise PmalError(
                "`experiment` must be a plain folder name of letters, digits and the "
                f"signs ._+- . Received: experiment={self.experiment!r}"
            )
        if -1 < self.calibration_fraction < 0:
            raise PmalError(
                "`calibration_fraction` must be a share between 0 and 0.5, or -1. "
                f"Received: calibration_fraction={self.calibration_fraction}"
            )
        if self.calibration_fraction == _AUTO_FRACTION:
            fraction = _FOLDER_FRACTION if self.dataset == "folder" else 0.0
            object.__setattr__(self, "calibration_fraction", fraction)
        if "control" in self.stages and self.stages != STAGES and not self.control:
            raise PmalError(
                "`stages` may name the control only where there is one. Received: "
                f"stages={','.join(self.stages)} without --control"
            )
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            if not isinstance(values, tuple):
                continue
            if len(set(values)) != len(values) or (field.default and not values):
                least = "at least one value" if field.default else "values"
                raise PmalError(
                    f"`{field.name}` must list {least}, each once. "
                    f"Received: {field.name}={list(values)}"
                )

    @property
    def run_folder(self) -> Path:
        """The experiment's folder."""
        return Path(self.workdir) / self.experiment

    @property
    def wanted_stages(self) -> tuple[str, ...]:
        """The stages to run, in order; the control only with `--control`."""
        return tuple(
            stage
            for stage in STAGES
            if stage in self.stages and (stage != "control" or self.control)
        )

    def inputs_of(self, stage: str) -> dict[str, Any]:
        """Returns the settings that a stage's result depends on."""
        depends_on = _DEPENDS_ON[stage]
        return {
            field.name: _as_json(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.metadata["stage"] in depends_on
        }

    @property
    def trained_settings(self) -> dict[str, Any]:
        """The settings that a trained model depends on."""
        return self.inputs_of("optimize")

    def stages_of(self, changed: list[str]) -> list[str]:
        """Returns the stages that changed settings first matter to, in order.

        Args:
            changed: Lines that begin with the name of a setting and a colon.
        """
        names = {line.partition(":")[0] for line in changed}
        first = {
            f.metadata["stage"] for f in dataclasses.fields(self) if f.name in names
        }
        return [stage for stage in STAGES if stage in first]

    def to_flags(self) -> str:
        """Returns the settings as a flagfile, one `--name=value` per line."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                value = _as_list(value)
            elif isinstance(value, bool):
                value = str(value).lower()
            if value != "":
                lines.append(f"--{field.name}={value}\n")
        return "".join(lines)


def define_flags() -> None:
    """Defines one absl flag per field of `Config`."""
    for field in dataclasses.fields(Config):
        allowed = field.metadata["allowed"]
        text = field.metadata["help"]
        if isinstance(allowed, tuple):
            text += f" One of {', '.join(allowed)}."
        elif allowed is not None:
            text += f" In {allowed}."
        default: Any = field.default
        if isinstance(default, bool):
            flags.DEFINE_boolean(field.name, default, text)
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, default, text)
        elif isinstance(default, float):
            flags.DEFINE_float(field.name, default, text)
        elif isinstance(default, tuple):
            flags.DEFINE_list(field.name, [str(item) for item in default], text)
        else:
            flags.DEFINE_string(field.name, default, text)


def parse_arguments(argv: list[str]) -> list[str]:
    """Parses a command line with its flagfiles into absl's `FLAGS`.

    Flags on the command line win over flagfiles, wherever they stand.

    Args:
        argv: The program's name and its arguments.

    Returns:
        What is left: the name, and arguments that are not flags.

    Raises:
        PmalError: If a flagfile cannot be read.
        absl.flags.Error: If a flag is unknown or has a value of a wrong type.
    """
    from_files, from_command_line, top_level = expand_flagfiles(argv[1:])
    if top_level:
        flags.FLAGS.set_default("experiment", experiment_name(top_level))
    return flags.FLAGS([argv[0], *from_files, *from_command_line])


def config_from_flags() -> Config:
    """Reads absl's `FLAGS`, here and nowhere else, into a validated `Config`.

    Raises:
        PmalError: If a value is not allowed.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        value: Any = flags.FLAGS[field.name].value
        if isinstance(field.default, tuple):
            value = tuple(_convert(field, item) for item in value)
        values[field.name] = value
    return Config(**values)


def default_settings() -> dict[str, Any]:
    """Returns what each setting was before it existed, as a JSON file holds it.

    That is its default, but for the share withheld to set thresholds on: none was.
    """
    defaults = {f.name: _as_json(f.default) for f in dataclasses.fields(Config)}
    return {**defaults, "calibration_fraction": 0.0}


def _as_json(value: Any) -> Any:
    """Returns a value as it comes back from a JSON file."""
    return list(value) if isinstance(value, tuple) else value


def _as_list(values: tuple[Any, ...]) -> str:
    """Writes values as absl reads a list: separated by commas, quoted where needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _convert(field: dataclasses.Field, item: str) -> Any:
    """Converts one item of a list flag to the type of the default's items."""
    kind = kind_of(field)
    try:
        return kind(item.strip())
    except ValueError as error:
        raise PmalError(
            f"`{field.name}` must list values of type {kind.__name__}, separated by "
            f"commas. Received: {item!r}"
        ) from error
