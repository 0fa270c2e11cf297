"""Settings of the machine: none of them says what is learnt."""

from __future__ import annotations

from dataclasses import dataclass

from pmal_tf.runtime.settings import Interval, check_settings, setting


@dataclass(frozen=True)
class DeviceSettings:
    """Machine."""

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
