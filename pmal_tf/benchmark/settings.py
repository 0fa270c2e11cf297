"""Settings of the benchmarks; each reads those that its name stands before."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.backbones.settings import NetworkSettings, backbone_names
from pmal_tf.mining.settings import TOPOLOGY_NAMES, MiningSettings
from pmal_tf.runtime.settings import Interval, check_settings, setting
from pmal_tf.training.recipe import Recipe


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
        (), "input: datasets to measure; all prepared ones if none."
    )
    data_dir: str = setting("", "input: folder of prepared datasets, or images.")
    cache_dir: str = setting("", "input: folder for decoded images.")
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
        "mining: picture of the growth to draw, .png, .svg or .pdf; has it measured.",
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
