"""Conversion to TensorFlow Lite, for small devices."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from sklearn.metrics import roc_auc_score

from pmal_tf.data.images import LabelledImages
from pmal_tf.methods.scorer import OUTPUTS, Scorer
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.runtime.types import Images
from pmal_tf.serving.answers import rejection_score
from pmal_tf.serving.exported import EXTRA

# Images that the ranges of int8 activations are taken from.
_REPRESENTATIVE = 256
# Images that are compared; a small device's runtime takes them one by one.
_MOST_COMPARED = 2000


def convert(
    scorer: Scorer,
    kind: str,
    folder: Path,
    train_image: Images,
    test: LabelledImages,
    *,
    rule: str = "",
    statistics: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Converts a model, and measures what that costs.

    The Lite model takes `image`, one of the model's own size, float32 on the 0-255
    scale, and gives `embedding` [1, D] and `logits` [1, K]. Distances are left to the
    device, in float32: a cosine in 8 bits has 256 values.

    Args:
        scorer: A trained method.
        kind: `float16`: weights in half the bytes. `int8`: weights and arithmetic in
            8 bits, with ranges from training images.
        folder: The SavedModel's folder.
        train_image: [N, H, W, 3] training images.
        test: Test images, label -1 for unknown classes.
        rule: Score to compare by, for a method without distances; others are by DR.
        statistics: What that score is measured against, if it is.

    Returns:
        `file`, `bytes`, `images` compared, `auroc` and `auroc_loss` (fractions; None
        where no image is unknown), `largest_distance_error` (None where the method
        measures no distances), and all in a `text`.

    Raises:
        PmalError: If the network cannot be converted, or there is no such score.
    """
    content = _convert(scorer, kind, train_image)
    path = folder / EXTRA / f"model_{kind}.tflite"
    path.write_bytes(content)
    rng = np.random.default_rng(0)
    images = test.take(np.sort(rng.permutation(len(test))[:_MOST_COMPARED]))
    pixels = np.asarray(images.image[:])
    ours, ran = scorer.outputs(pixels), _run(content, pixels)
    measured = scorer.measure({name: tf.constant(value) for name, value in ran.items()})
    lite = {name: value.numpy() for name, value in measured.items()}
    error = auroc = auroc_loss = None
    if "distance" in ours:
        error = float(np.abs(ours["distance"] - lite["distance"]).max())
        text = f"its distances are off by at most {error:.2g}"
    else:
        same = ours["logits"].argmax(axis=1) == lite["logits"].argmax(axis=1)
        text = f"its most probable class is the same on {100 * same.mean():.1f} %"
    text = f"on {len(images)} test images {text}"
    is_unknown = images.is_unknown
    if is_unknown.any() and not is_unknown.all():
        score = rejection_score(scorer, "dr" if "distance" in ours else rule)
        before, auroc = (
            float(roc_auc_score(is_unknown, score.values(outputs, statistics or {})))
            for outputs in (ours, lite)
        )
        auroc_loss = before - auroc
        text += (
            f", and AUROC ({score.title}) is {100 * auroc:.2f} % in place of "
            f"{100 * before:.2f} %"
        )
    logging.info("TensorFlow Lite, %s: %s.", kind, text)
    return {
        "file": str(path.relative_to(folder)),
        "bytes": len(content),
        "images": len(images),
        "largest_distance_error": error,
        "auroc": auroc,
        "auroc_loss": auroc_loss,
        "text": f"{text}.",
    }


def _convert(scorer: Scorer, kind: str, train_image: Images) -> bytes:
    """Returns the Lite model's file."""
    network = scorer.network
    spec = tf.TensorSpec((1, *network.input.shape[1:]), tf.float32, name="image")

    def compute(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = network(image, training=False)
        return {name: tf.cast(outputs[name], tf.float32) for name in OUTPUTS}

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", compute, input_signature=[spec])
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            chosen = np.random.default_rng(0).permutation(len(train_image))
            samples = [train_image[i : i + 1] for i in sorted(chosen[:_REPRESENTATIVE])]
            converter.representative_dataset = lambda: (
                [np.asarray(image, np.float32)] for image in samples
            )
        try:
            return converter.convert()
        except Exception as error:  # The converter's own error is not public.
            raise PmalError(
                "TensorFlow Lite's converter must know the network's operations. "
                f"Received: {first_line(error)}. Leave out --tflite={kind}; the stages "
                "that are finished are kept."
            ) from error


def _run(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """Applies a Lite model to images, one after the other."""
    with warnings.catch_warnings():
        # TensorFlow points to the interpreter's new package, which it does not bring.
        warnings.simplefilter("ignore")
        runner = tf.lite.Interpreter(model_content=content).get_signature_runner()
    answers = [runner(image=image[None].astype(np.float32)) for image in images]
    return {name: np.concatenate([a[name] for a in answers]) for name in OUTPUTS}
