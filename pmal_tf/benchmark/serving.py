"""What an exported model costs beside its bare backbone.

Both are SavedModels, loaded and called in turn by a signature that takes `images`; the
backbone's gives embedding and logits.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.benchmark.measurement import (
    Measurement,
    compare,
    render,
    spread,
    time_in_turn,
)
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.benchmark.training import PROTOTYPES_PER_CLASS, random_prototypes
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError
from pmal_tf.serving.export import export_saved_model

_CLASSES = 6
_WARM_UP_CALLS = 20


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Measures the latency of batches of 32 and of 1, of an untrained model.

    Raises:
        PmalError: If more than one network is named.
    """
    if len(settings.backbones) != 1:
        raise PmalError(
            "`backbones` must name one network to serve. Received: --backbones="
            f"{','.join(settings.backbones)}"
        )
    (backbone,), width = settings.backbones, settings.width
    repetitions, side = settings.repetitions or 500, settings.image_size or 32
    shape = (side, side, 3)
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = _exported(Path(folder), backbone, width, shape)
        signatures = [
            bare.signatures["serving_default"],
            ours.signatures["serving_images"],
            ours.signatures["serving_images_xla"],
        ]
        bare_32, ours_32, xla_32 = _timed(signatures, (32, *shape), repetitions)
        of_1 = _timed(signatures, (1, *shape), repetitions)
    bare_1, ours_1, xla_1 = ([1e3 * s for s in seconds] for seconds in of_1)
    measurements = [
        compare("latency_ratio_32", ours_32, bare_32, note="a batch of 32"),
        compare(
            "latency_extra_ms_1",
            ours_1,
            bare_1,
            figure=operator.sub,
            unit="ms",
            sides="ms",
            note="more than the backbone, for one image",
        ),
        compare("latency_xla_ratio_32", xla_32, bare_32, note="under XLA"),
    ]
    title = (
        f"{backbone} at width {width:g}, {side} pixels, {_CLASSES} classes "
        f"with {PROTOTYPES_PER_CLASS} prototypes, beside the bare backbone."
    )
    notes = [f"Under XLA one image takes {spread(xla_1)} ms."]
    return render(title, measurements, notes), measurements


def _exported(
    folder: Path, backbone: str, width: float, shape: tuple[int, int, int]
) -> tuple[Any, Any]:
    """Returns a loaded model of untrained weights, and its backbone alone."""
    keras.utils.set_random_seed(0)
    network = embedding_and_logits(
        build_classifier(backbone, shape, _CLASSES, width=width)
    )
    prototypes = random_prototypes(_CLASSES, shape)
    model = PMALModel(network, PROTOTYPES_PER_CLASS)
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    export_saved_model(
        model,
        folder / "ours",
        prototypes,
        class_names=[f"class {index}" for index in range(_CLASSES)],
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
    signatures: Sequence[Any], shape: tuple[int, ...], repetitions: int
) -> list[list[float]]:
    """Times the first two signatures in turn, and then the third."""
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)
    images = tf.constant(pixels)

    def work_of(signature: Any) -> Callable[[], object]:
        # As arrays: all answers are waited for.
        return lambda: [each.numpy() for each in signature(images=images).values()]

    works = [work_of(each) for each in signatures]
    time_in_turn(*works, repetitions=_WARM_UP_CALLS)
    # XLA in turns of its own: what it leaves in the caches is not ours to pay for.
    return [
        *time_in_turn(*works[:2], repetitions=repetitions),
        *time_in_turn(works[2], repetitions=max(repetitions // 5, 1)),
    ]
