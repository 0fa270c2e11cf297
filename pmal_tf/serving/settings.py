"""Settings of export."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.results.scores.registry import get_score, score_names
from pmal_tf.runtime.settings import Interval, check_settings, setting


@dataclass(frozen=True)
class ServingSettings:
    """Export."""

    export_dir: str = setting(
        "saved_models", "Folder of exported models.", result=False, common=True
    )
    rule: str = setting(
        "",
        "Score by which the exported model rejects; by default the method's own.",
        allowed=("", *score_names()),
        common=True,
    )
    export_xla: bool = setting(
        False,
        "Also export a signature serving_images_xla, whose network XLA compiles for "
        "each batch size; for GPUs.",
    )
    tflite: tuple[str, ...] = setting(
        (),
        "Also convert the exported model to TensorFlow Lite, with weights as float16 "
        "or arithmetic as int8.",
        allowed=("float16", "int8"),
    )
    keep_versions: int = setting(
        0,
        "Exported versions of a trial, the newest, that are kept when one is "
        "exported; 0 for all.",
        allowed=Interval(low=0),
        result=False,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.rule:
            object.__setattr__(self, "rule", get_score(self.rule).name)
