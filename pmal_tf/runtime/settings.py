"""Settings that carry their help, allowed values and meaning in one declaration.

They stand beside what they are settings of, in frozen dataclasses whose fields are made
by `setting` and checked by `check_settings`; `pmal_tf.workflow.config` makes flags of
them. Nothing here or there loads TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pmal_tf.runtime.errors import PmalError


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        left = "[" if self.low > -math.inf and not self.open_low else "("
        right = "]" if self.high < math.inf and not self.open_high else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


def setting(
    default: Any,
    text: str,
    *,
    allowed: Interval | tuple[str, ...] | None = None,
    result: bool = True,
    common: bool = False,
) -> Any:
    """Declares a field of a frozen dataclass; a default that is a tuple makes a list.

    `text` says what it is, with its unit; `allowed` are the numbers or words that it
    may be; `result` is whether results depend on it, `common` whether most users need
    it.
    """
    metadata = {"help": text, "allowed": allowed, "result": result, "common": common}
    return dataclasses.field(default=default, metadata=metadata)


def settings_in(declared: Any) -> list[dataclasses.Field]:
    """Returns the settings that a dataclass, or an instance of one, has."""
    return [field for field in dataclasses.fields(declared) if "help" in field.metadata]


def check_settings(values: Any) -> None:
    """Checks every setting of a dataclass; its `__post_init__` calls this."""
    for field in settings_in(values):
        check_setting(field, getattr(values, field.name))


def read_settings(values: Any, *names: str) -> dict[str, Any]:
    """Returns settings that results depend on, all or the named, as JSON holds them."""
    found = {}
    for field in settings_in(values):
        if field.metadata["result"] and (not names or field.name in names):
            value = getattr(values, field.name)
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


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


@dataclass(frozen=True)
class DeviceSettings:
    """Machine: none of them says what is learnt."""

    strategy: str = setting(
        "default",
        "One device (default), all GPUs of this host (mirrored), or all hosts of "
        "TF_CONFIG (multi_worker).",
        allowed=("default", "mirrored", "multi_worker"),
        result=False,
        common=True,
    )
    worker_timeout_seconds: int = setting(
        300,
        "Seconds to wait for the other hosts of TF_CONFIG.",
        allowed=Interval(low=1),
        result=False,
    )
    deterministic: bool = setting(
        False,
        "Use only GPU operations that give the same bits every time; slower.",
        result=False,
    )
    checkpoint_minutes: float = setting(
        10.0,
        "Longest time without a checkpoint within an epoch, in minutes.",
        allowed=Interval(low=0, open_low=True),
        result=False,
    )
    tensorboard: bool = setting(
        True, "Write TensorBoard events into the run folder.", result=False
    )

    def __post_init__(self) -> None:
        check_settings(self)
