"""What an exported model costs beside its bare backbone.

Both are SavedModels, loaded and called in turn by a signature that takes `images`; the
backbone's gives embedding and logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.benchmark.measurement import (
    Measurement,
    Times,
    compare,
    hardware,
    time_in_turn,
)
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.serving.export import export_saved_model

_CLASSES, _PROTOTYPES = 6, 10
_WARM_UP_CALLS = 20


def run(
    *, backbone: str, width: float, image_size: int, repetitions: int
) -> tuple[str, list[Measurement]]:
    """Measures the latency of batches of 32 and of 1.

    Args:
        backbone: A file of `pmal_tf.backbones.architectures`.
        width: Its width multiplier.
        image_size: Side of the images.
        repetitions: How often each is called, in turn.

    Returns:
        A text, and the measurements `latency_ratio_32`, `latency_extra_ms_1` and
        `latency_xla_ratio_32`.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = _exported(Path(folder), backbone, width, image_size)
        timed = {
            batch: _timed(ours, bare, batch, image_size, repetitions)
            for batch in (32, 1)
        }
    (own, reference, compiled), (own_one, reference_one, compiled_one) = timed.values()
    extra = 1e3 * (own_one.median - reference_one.median)
    measurements = [
        compare("latency_ratio_32", own.median, reference.median),
        Measurement(
            *("latency_extra_ms_1", extra, "ms"),
            *(1e3 * own_one.median, 1e3 * reference_one.median),
        ),
        compare("latency_xla_ratio_32", compiled.median, reference.median),
    ]
    rows = [
        ["bare backbone", str(reference), str(reference_one)],
        ["exported model, serving_images", str(own), str(own_one)],
        ["exported model, serving_images_xla", str(compiled), str(compiled_one)],
    ]
    text = (
        f"{hardware()}\n"
        f"{backbone} at width {width:g}, {image_size} pixels, {_CLASSES} classes with "
        f"{_PROTOTYPES} prototypes; seconds, median (n, range).\n\n"
        f"{markdown_table(['signature', 'batch of 32', 'one image'], rows)}\n"
        f"A batch of 32 takes {measurements[0].value:.3f} times the backbone's time, "
        f"one image {extra:.2f} ms more.\n"
    )
    return text, measurements


def _exported(
    folder: Path, backbone: str, width: float, image_size: int
) -> tuple[Any, Any]:
    """Returns a loaded model of untrained weights, and its backbone alone."""
    keras.utils.set_random_seed(0)
    shape = (image_size, image_size, 3)
    network = embedding_and_logits(
        build_classifier(backbone, shape, _CLASSES, width=width)
    )
    size = (_CLASSES, _PROTOTYPES)
    image = np.random.default_rng(0).integers(0, 256, (*size, *shape)).astype(np.uint8)
    ids = np.arange(_CLASSES * _PROTOTYPES).reshape(size).astype(str)
    prototypes = Prototypes(image, np.ones(size, bool), ids, np.ones(size))
    model = PMALModel(network, _PROTOTYPES)
    model.refresh_prototypes(image, prototypes.mask)
    names = [f"class {index}" for index in range(_CLASSES)]
    export_saved_model(
        *(model, folder / "ours", prototypes),
        class_names=names,
        threshold=0.5,
        xla=True,
    )

    def compute(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return network(tf.ensure_shape(images, (None, *shape)), training=False)

    archive = keras.export.ExportArchive()
    archive.track(network)
    spec = tf.TensorSpec((None, None, None, 3), tf.float32, name="images")
    archive.add_endpoint("serving_default", compute, input_signature=[spec])
    with quiet_libraries():
        archive.write_out(str(folder / "bare"), verbose=False)
    return tuple(tf.saved_model.load(str(folder / name)) for name in ("ours", "bare"))


def _timed(
    ours: Any, bare: Any, batch: int, image_size: int, repetitions: int
) -> list[Times]:
    """Times our signature, the backbone's, and ours under XLA, in turn."""
    shape = (batch, image_size, image_size, 3)
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)
    images = tf.constant(pixels)

    def call(signature: Callable[..., dict[str, tf.Tensor]]) -> Callable[[], None]:
        def work() -> None:
            for value in signature(images=images).values():
                value.numpy()

        return work

    works = [
        call(ours.signatures["serving_images"]),
        call(bare.signatures["serving_default"]),
        call(ours.signatures["serving_images_xla"]),
    ]
    time_in_turn(*works, repetitions=_WARM_UP_CALLS)
    # XLA in turns of its own: what it leaves in the caches is not ours to pay for.
    own, reference = time_in_turn(*works[:2], repetitions=repetitions)
    (compiled,) = time_in_turn(works[2], repetitions=max(repetitions // 5, 1))
    return [own, reference, compiled]
