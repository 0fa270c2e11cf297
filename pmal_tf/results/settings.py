"""Settings of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.results.scores.registry import score_names
from pmal_tf.runtime.settings import Interval, check_settings, setting


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation.

    Raises:
        PmalError: If a value is not allowed.
    """

    scores: tuple[str, ...] = setting(
        (),
        "Scores to judge by, beside those of the method.",
        allowed=score_names(),
        common=True,
    )
    reject_rate: float = setting(
        0.05,
        "Share of known images that the exported model's threshold may reject.",
        allowed=Interval(low=0, high=1, open_low=True, open_high=True),
        common=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
