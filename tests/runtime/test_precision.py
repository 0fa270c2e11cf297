"""Precisions that a device lacks are told before training."""

from pathlib import Path

import pytest
import tensorflow as tf

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.precision import check_precision, resolve_precision

MIXED = ("mixed_float16", "mixed_bfloat16")


@pytest.fixture
def gpus(monkeypatch):
    """Makes GPUs visible, each told by its compute capability."""

    def make(*capabilities):
        names = [f"/physical_device:GPU:{n}" for n in range(len(capabilities))]
        details = {
            name: {"device_name": f"Device {n}", "compute_capability": capability}
            for n, (name, capability) in enumerate(
                zip(names, capabilities, strict=True)
            )
        }
        devices = [tf.config.PhysicalDevice(name, "GPU") for name in names]
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: devices)
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda device: details[device.name],
        )

    return make


@pytest.fixture(params=[(tf.nn, "conv2d"), (tf.GradientTape, "gradient")])
def no_kernel(monkeypatch, request):
    """A CPU that lacks the convolution, or its gradient."""

    def fail(*_arguments, **_options):
        raise tf.errors.UnimplementedError(None, None, "no such kernel\nat line 7")

    monkeypatch.setattr(*request.param, fail)


@pytest.mark.parametrize(
    ("policy", "capability", "message"),
    [
        (
            "mixed_bfloat16",
            (7, 5),
            r"capability 8\.0 or more\. Received: Device 0 with 7\.5\. "
            r"Use --precision=mixed_float16 or --precision=float32\.$",
        ),
        ("mixed_bfloat16", (6, 1), r"with 6\.1\. Use --precision=float32\.$"),
        (
            "mixed_float16",
            (6, 1),
            r"`precision=mixed_float16` .* 7\.0 or more\. Received: Device 0 with 6\.1",
        ),
    ],
)
def test_old_gpus_are_refused_by_name(gpus, policy, capability, message):
    gpus(capability)
    with pytest.raises(PmalError, match=message):
        check_precision(policy)


def test_every_gpu_counts(gpus):
    gpus((9, 0), (7, 0))
    check_precision("mixed_float16")
    with pytest.raises(PmalError, match=r"Received: Device 1 with 7\.0"):
        check_precision("mixed_bfloat16")


@pytest.mark.parametrize("policy", MIXED)
def test_new_gpus_and_such_without_a_capability_pass(gpus, no_kernel, policy):
    gpus((8, 0), (10, 0), None)
    check_precision(policy)  # The CPU is not asked.


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(8, 0), (9, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 5)], "float32"),
        ([None], "mixed_bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_all_gpus_compute_in_it(gpus, capabilities, expected):
    gpus(*capabilities)
    assert resolve_precision("auto") == expected
    assert resolve_precision("float32") == "float32"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fma avx512f avx512_bf16 sse", "mixed_bfloat16"), ("fma avx512f", "float32")],
)
def test_auto_without_a_gpu_asks_the_cpu(gpus, monkeypatch, flags, expected):
    gpus()
    monkeypatch.setattr(Path, "read_text", lambda *_: f"flags\t\t: {flags}\n")
    assert resolve_precision("auto") == expected


def test_auto_where_no_system_says_is_float32(gpus, monkeypatch, caplog):
    gpus()

    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert resolve_precision("auto") == "float32"
    check_precision("mixed_bfloat16")
    assert "may be slower than float32, which --precision=auto" in caplog.text


@pytest.mark.parametrize("policy", ["float32", "float64"])
def test_full_precisions_are_everywhere(gpus, no_kernel, policy):
    gpus((3, 5))
    check_precision(policy)
    gpus()
    check_precision(policy)


@pytest.mark.parametrize("policy", MIXED)
def test_a_cpu_that_cannot_convolve_is_refused(gpus, no_kernel, policy):
    gpus()
    dtype = policy.removeprefix("mixed_")
    with pytest.raises(
        PmalError, match=rf"in {dtype}\. Received: this CPU.*no such kernel\. Use --pre"
    ):
        check_precision(policy)


@pytest.mark.parametrize("policy", MIXED)
def test_this_cpu_is_tried_without_an_error(gpus, policy):
    gpus()
    check_precision(policy)
