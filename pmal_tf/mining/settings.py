"""Settings of mining (Section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.settings import Interval, check_settings, setting

TOPOLOGY_NAMES = ("correlation", "chord", "rms", "literal")


@dataclass(frozen=True)
class MiningSettings:
    """Mining; the defaults are the paper's but for `topology` and `candidate_rule`.

    Raises:
        PmalError: If a value is not allowed.
    """

    epsilon: float = setting(
        0.7,
        "Candidates are this share of their class, the best of it, or have at least "
        "this share of its best robustness, by --candidate_rule.",
        allowed=Interval(low=0, high=1, open_low=True),
        common=True,
    )
    prototypes_per_class: int = setting(
        10,
        "Number T of prototypes per class; a class with fewer images gives what it "
        "has.",
        allowed=Interval(low=1),
        common=True,
    )
    topology: str = setting(
        "correlation",
        "How an image's distances to all in two spaces are compared: 1 - correlation, "
        "chord (difference at unit length), or Eq. 7's difference, rms (divided by "
        "sqrt(N)) or literal (as printed).",
        allowed=TOPOLOGY_NAMES,
        common=True,
    )
    quality: str = setting(
        "robustness",
        "What makes a training image a candidate: the paper's robustness, or a "
        "baseline of its Table 4; none takes every image.",
        allowed=("robustness", "probability", "deep_ensembles", "mc_dropout", "none"),
    )
    diversity: str = setting(
        "algorithm1",
        "How prototypes are chosen among candidates: the paper's Algorithm 1, a "
        "baseline of its Table 4 (random, kmeans), those that cover them "
        "(facility_location, k_medoids); none takes the best.",
        allowed=(
            *("algorithm1", "random", "kmeans"),
            *("facility_location", "k_medoids", "none"),
        ),
    )
    candidate_rule: str = setting(
        "share",
        "What --epsilon is a share of: share (of the class's images, the best ones), "
        "relative (of the class's best robustness; by another quality, as many are "
        "candidates), or literal (of the best by any quality).",
        allowed=("share", "relative", "literal"),
    )
    topology_anchors: int = setting(
        0,
        "Images that every image is compared with, drawn class by class, for an "
        "estimate of the robustness; 0 for all.",
        allowed=Interval(low=0),
    )
    mining_dtype: str = setting(
        "float32",
        "Number type of distances in mining; sums are float64.",
        allowed=("float32", "float64"),
    )
    mining_memory_mb: int = setting(
        2048,
        "Memory in MiB for what grows with the number of images in mining.",
        allowed=Interval(low=1),
        result=False,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.quality == self.diversity == "none":
            raise PmalError(
                "Without a quality and without diversity nothing tells which images to "
                "take. Received: quality=none, diversity=none. For prototypes at "
                "random, set diversity=random."
            )
