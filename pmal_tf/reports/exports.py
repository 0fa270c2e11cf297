"""A line on an exported model: where it lies, and what its threshold rejects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SCORES = {"dr": "a distance (DR)", "pr": "a score PR", "mls": "a score MLS"}
_SIDES = {"known_rejected": "known", "unknown_rejected": "unknown"}


def describe_export(folder: Path, name: str, calibration: dict[str, Any]) -> str:
    """Returns the line.

    Args:
        folder: The exported version.
        name: Its rejection rule.
        calibration: The content of `calibration.json`.
    """
    rule = calibration["rules"][name]
    rejected = [
        f"{100 * rule[key]:.1f} % of {side}"
        for key, side in _SIDES.items()
        if rule[key] is not None
    ]
    measured = f"; it rejects {' and '.join(rejected)} test images" if rejected else ""
    return (
        f"Exported {folder}: above {_SCORES[name]} of {rule['threshold']:.4g} an image "
        f"is unknown{measured}.\n"
    )
