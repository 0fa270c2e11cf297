"""Settings of the benchmarks; each reads those that its name stands before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pmal_tf.backbones.settings import NetworkSettings, backbone_names
from pmal_tf.mining.settings import TOPOLOGY_NAMES, MiningSettings
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import Interval, check_settings, setting
from pmal_tf.training.recipe import Recipe

_PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class BenchmarkSettings:
    """Benchmarks.

    Raises:
        PmalError: If a value is not allowed.
    """

    json: str = setting("", "File to write the measurements to.")
    repetitions: int = setting(
        0,
        "How often each is timed; 0: mining: 5; training: 15 pairs; serving: 500.",
        allowed=Interval(low=0),
    )
    image_size: int = setting(
        0,
        "Side of the images in pixels; 0: input: the dataset's own; else 32.",
        allowed=Interval(low=0, high=1024),
    )
    datasets: tuple[str, ...] = setting(
        (),
        "input: datasets to measure; all prepared ones if none. quality: one, cifar10 "
        "if none.",
    )
    data_dir: str = setting("", "input, quality: folder of prepared datasets.")
    cache_dir: str = setting("", "input, quality: folder for decoded images.")
    n: int = setting(20_000, "mining: number of samples.", allowed=Interval(low=2))
    k: int = setting(6, "mining: number of classes.", allowed=Interval(low=2))
    dtype: str = setting(
        "float32", "mining: number type within tiles.", allowed=("float32", "float64")
    )
    memory_mb: int = setting(
        MiningSettings.mining_memory_mb,
        "mining: memory budget in MiB.",
        allowed=Interval(low=1),
    )
    topology: str = setting(
        MiningSettings.topology,
        "mining: how topologies are compared.",
        allowed=TOPOLOGY_NAMES,
    )
    references: tuple[str, ...] = setting(
        ("scipy", "matmul", "sqrt"),
        "mining: references to measure beside, or nothing.",
        allowed=("scipy", "matmul", "sqrt"),
    )
    scaling: bool = setting(False, "mining: measure how cost grows with n and k.")
    plot: str = setting(
        "",
        "mining: picture of the growth to draw, .png, .svg or .pdf; has it measured. "
        "quality: picture of the curves.",
    )
    quality_runs: tuple[str, ...] = setting(
        ("airbench:fast",),
        "quality: what to train, BACKBONE:RECIPE, where a recipe is a flagfile, or the "
        "name of one in experiments/recipes.",
    )
    quality_epochs: tuple[int, ...] = setting(
        (0,),
        "quality: epochs of the runs, one run each; 0: the recipe's own.",
        allowed=Interval(low=0),
    )
    target_auroc: float = setting(
        90.0,
        "quality: AUROC of the largest logit to reach, in percent.",
        allowed=Interval(low=50, high=100),
    )
    trial: int = setting(
        0, "quality: trial of the protocol neal.", allowed=Interval(low=0)
    )
    train_images_per_class: int = setting(
        0, "quality: training images per class; 0: all.", allowed=Interval(low=0)
    )
    backbones: tuple[str, ...] = setting(
        (NetworkSettings.backbone,),
        "training: networks to measure, each with each batch size and precision; "
        "serving: one.",
        allowed=backbone_names(),
    )
    batch_sizes: tuple[int, ...] = setting(
        (Recipe.batch_size,), "training: images in a step.", allowed=Interval(low=1)
    )
    precision: tuple[str, ...] = setting(
        (NetworkSettings.precision,),
        "training: number types of the networks' arithmetic, as in training.",
        allowed=("float32", "float64", "mixed_bfloat16", "mixed_float16"),
    )
    width: float = setting(
        NetworkSettings.width,
        "training, serving: multiplier of the networks' channels.",
        allowed=Interval(low=0, open_low=True),
    )
    jit: str = setting(
        "on",
        "training: compare steps under XLA (on) or plain graphs (off).",
        allowed=("on", "off"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.plot and Path(self.plot).suffix.lower() not in _PLOT_SUFFIXES:
            raise PmalError(
                f"`plot` must be the name of a {', '.join(_PLOT_SUFFIXES)} file. "
                f"Received: --plot={self.plot}"
            )
