"""What number types the devices can train in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from pmal_tf.runtime.errors import PmalError, first_line

# The first compute capability whose tensor cores multiply a type: float16 since Volta,
# bfloat16 since Ampere (NVIDIA, CUDA C++ Programming Guide, "Compute Capabilities").
_LEAST_CAPABILITY = {"mixed_float16": (7, 0), "mixed_bfloat16": (8, 0)}


@contextlib.contextmanager
def in_precision(policy: str) -> Iterator[None]:
    """Makes a Keras dtype policy that of the models built meanwhile."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def resolve_precision(precision: str) -> str:
    """Returns the Keras dtype policy that `auto` stands for here, or what is given.

    It is `mixed_bfloat16` where all visible GPUs, or without any the CPU, have
    instructions that multiply bfloat16.
    """
    if precision != "auto":
        return precision
    devices = tf.config.get_visible_devices("GPU")
    if devices:
        least = _LEAST_CAPABILITY["mixed_bfloat16"]
        fits = all(_capability(device) >= least for device in devices)
    else:
        fits = _cpu_has_bfloat16()
    return "mixed_bfloat16" if fits else "float32"


def _cpu_has_bfloat16() -> bool:
    """Tells whether Linux says that this CPU multiplies bfloat16, as far as known."""
    try:
        said = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(said.split()))


def check_precision(policy: str) -> None:
    """Checks that the devices can train in a Keras dtype policy.

    Every visible GPU is asked for its compute capability; without a GPU, the CPU tries
    a convolution and its gradients. Only the mixed policies can be lacking.

    Raises:
        PmalError: If a device cannot.
    """
    if policy not in _LEAST_CAPABILITY:
        return
    major, minor = least = _LEAST_CAPABILITY[policy]
    devices = tf.config.get_visible_devices("GPU")
    if not devices:
        _check_cpu(policy)
    for device in devices:
        capability = _capability(device)
        if capability >= least:
            continue
        way_out = "--precision=float32"
        if capability >= _LEAST_CAPABILITY["mixed_float16"]:
            way_out = f"--precision=mixed_float16 or {way_out}"
        details = tf.config.experimental.get_device_details(device)
        raise PmalError(
            f"`precision={policy}` needs GPUs of compute capability {major}.{minor} or "
            f"more. Received: {details.get('device_name', device.name)} with "
            f"{capability[0]}.{capability[1]}. Use {way_out}."
        )


def _capability(device: tf.config.PhysicalDevice) -> tuple[int, ...]:
    """Returns a GPU's compute capability; one that does not say it passes for any."""
    details = tf.config.experimental.get_device_details(device)
    return tuple(details.get("compute_capability") or (99, 0))


def _check_cpu(policy: str) -> None:
    """Takes a 3x3 convolution and its gradients in a precision's type.

    A CPU that only imitates bfloat16 passes, with a warning: a run that began elsewhere
    may have little left to do.
    """
    if policy == "mixed_bfloat16" and not _cpu_has_bfloat16():
        logging.warning(
            "precision=mixed_bfloat16 on a CPU that is not known to multiply bfloat16: "
            "it may be slower than float32, which --precision=auto would take here."
        )
    dtype = keras.DTypePolicy(policy).compute_dtype
    with tf.device("CPU:0"):
        image, kernel = tf.ones((1, 4, 4, 2), dtype), tf.ones((3, 3, 2, 2), dtype)
        try:
            with tf.GradientTape() as tape:
                tape.watch([image, kernel])
                output = tf.nn.conv2d(image, kernel, strides=1, padding="VALID")
            tape.gradient(output, [image, kernel])
        except tf.errors.OpError as error:
            raise PmalError(
                f"`precision={policy}` needs convolutions in {dtype}. Received: this "
                f"CPU, where TensorFlow cannot compute them: {first_line(error)}. Use "
                "--precision=float32."
            ) from error
