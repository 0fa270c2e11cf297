"""A line on an exported model: where it lies, and what its threshold rejects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pmal_tf.results.scores.registry import get_score

_SIDES = {"known_rejected": "known", "unknown_rejected": "unknown"}


def describe_export(folder: Path, name: str, calibration: dict[str, Any]) -> str:
    """Returns the line.

    Args:
        folder: The exported version.
        name: The score that it rejects by.
        calibration: The content of `calibration.json`.
    """
    score = get_score(name)
    rule = calibration["rules"][score.field]
    rejected = " and ".join(
        f"{100 * rule[key]:.1f} % of {side}"
        for key, side in _SIDES.items()
        if rule[key] is not None
    )
    measured = f"; that rejects {rejected} test images" if rejected else ""
    return (
        f"Exported {folder}: an image whose {score.title} is above "
        f"{rule['threshold']:.4g} is unknown{measured}.\n"
    )
