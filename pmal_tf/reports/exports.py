"""A line on an exported model: where it lies, and what its threshold rejects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SIDES = {"known_rejected": "known", "unknown_rejected": "unknown"}


def describe_export(folder: Path, calibration: dict[str, Any]) -> str:
    """Returns the line.

    Args:
        folder: The exported version.
        calibration: The content of `calibration.json`.
    """
    rule = calibration["rules"]["dr"]
    rejected = [
        f"{100 * rule[name]:.1f} % of {side}"
        for name, side in _SIDES.items()
        if rule[name] is not None
    ]
    measured = f"; it rejects {' and '.join(rejected)} test images" if rejected else ""
    return (
        f"Exported {folder}: above a distance (DR) of {rule['threshold']:.3f} an image "
        f"is unknown{measured}.\n"
    )
