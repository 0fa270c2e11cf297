"""Settings that carry their help, allowed values and meaning in one declaration."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pmal_tf.errors import PmalError


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`; None is no bound."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = self.low is None or (
            value > self.low if self.open_low else value >= self.low
        )
        below = self.high is None or (
            value < self.high if self.open_high else value <= self.high
        )
        return above and below

    def __str__(self) -> str:
        left = "(" if self.open_low or self.low is None else "["
        right = ")" if self.open_high or self.high is None else "]"
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{left}{low}, {high}{right}"


def setting(
    default: Any,
    text: str,
    *,
    stage: str | None = None,
    allowed: Interval | tuple[str, ...] | None = None,
) -> Any:
    """Declares a field: default, help, the stage it first matters to, allowed values.

    Fields without a stage never change a result.
    """
    metadata = {"help": text, "stage": stage, "allowed": allowed}
    return dataclasses.field(default=default, metadata=metadata)


def kind_of(field: dataclasses.Field) -> type:
    """Returns the type of a setting, or of a list's items; without any, str."""
    default: Any = field.default
    if not isinstance(default, tuple):
        return type(default)
    return type(default[0]) if default else str


def check_setting(field: dataclasses.Field, value: Any) -> None:
    """Checks the type and range of one setting.

    Raises:
        PmalError: If the value is not allowed.
    """
    allowed = field.metadata["allowed"]
    listed = isinstance(field.default, tuple)
    kind = kind_of(field)
    # `type`, not `isinstance`: True is an int to Python, and no number to a user.
    kinds = (float, int) if kind is float else (kind,)
    items = value if listed and isinstance(value, tuple) else (value,)
    for item in items:
        good, expected = type(item) in kinds, f"be of type {kind.__name__}"
        if good and isinstance(allowed, Interval):
            good, expected = item in allowed, f"lie in {allowed}"
        elif good and allowed is not None:
            good, expected = item in allowed, f"be one of {', '.join(allowed)}"
        if not good or (listed and not isinstance(value, tuple)):
            raise PmalError(
                f"`{field.name}` must {expected}. Received: {field.name}={item}"
            )
