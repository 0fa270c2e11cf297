"""What lies beside an exported model: for TF Serving, and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf
from PIL import Image

from pmal_tf.methods.scorer import Scorer
from pmal_tf.results.scores.registry import get_score
from pmal_tf.results.scores.score import LARGEST
from pmal_tf.runtime.files import save_arrays, write_atomically, write_text
from pmal_tf.serving.answers import Answering
from pmal_tf.serving.exported import EXTRA
from pmal_tf.serving.signatures import XLA_SIGNATURE

MODEL_CARD = "model_card.md"
_PROTOTYPES = "prototypes.npz"
# 1,000 classes with 10 prototypes each take 123 MB at most.
_LARGEST_SIDE = 64
_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_DEFAULT_SIDE = 64
_BATCHING = f"""\
# For tensorflow_model_server --enable_batching --batching_parameters_file=<this file>.
# Requests that arrive within two milliseconds of each other are computed together,
# filled up to one of these sizes, for which the model is warmed up.
max_batch_size {{ value: {_BATCH_SIZES[-1]} }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
"""


def write_serving_files(folder: Path, answering: Answering) -> None:
    """Writes warm-up requests and batching parameters beside a SavedModel.

    The first request of every shape is slow, since the runtime prepares its graph then.
    Before it makes a version available, TF Serving replays these requests, of every
    signature and batch size. Not of the one that XLA compiles: a server that has XLA
    switched off, as servers on CPUs have by default, would fail it, and with it the
    whole version.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(str(folder))
    height, width, channels = (side or _DEFAULT_SIDE for side in answering.input_shape)
    grey = np.full((height, width, channels), 127, np.uint8)
    samples = {
        "images": grey.astype(np.float32),
        "threshold": np.float32(answering.threshold),
        "image_bytes": tf.io.encode_png(grey).numpy() if channels == 3 else b"",
    }

    def write(path: Path) -> None:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for name in sorted(set(loaded.signatures) - {XLA_SIGNATURE}):
                _, inputs = loaded.signatures[name].structured_input_signature
                for size in _BATCH_SIZES:
                    log = prediction_log_pb2.PredictionLog()
                    request = log.predict_log.request
                    request.model_spec.signature_name = name
                    for key, spec in inputs.items():
                        value = np.stack([samples[key]] * size)
                        proto = tf.make_tensor_proto(value, spec.dtype)
                        request.inputs[key].CopyFrom(proto)
                    writer.write(log.SerializeToString())

    write_atomically(folder / EXTRA / "tf_serving_warmup_requests", write)
    allowed = "".join(f"allowed_batch_sizes: {size}\n" for size in _BATCH_SIZES)
    write_text(folder / EXTRA / "batching_parameters.txt", _BATCHING + allowed)


def save_prototype_images(folder: Path, scorer: Scorer) -> None:
    """Writes a model's prototypes, if it has any, so that a person can see why.

    Of P prototypes: `image` [P, h, w, 3] uint8, at most 64 pixels a side; `example_id`
    [P] strings; `class_index` [P]; and `embedding` [P, D] float32, which the model's
    distances are measured to.
    """
    prototypes, embedding = scorer.prototypes, scorer.prototype_embeddings()
    if prototypes is None or embedding is None:
        return
    mask, images = prototypes.mask, []
    for pixels in prototypes.image[mask].clip(0, 255).astype(np.uint8):
        image = Image.fromarray(pixels)
        size = (_LARGEST_SIDE, _LARGEST_SIDE)
        image.thumbnail(size, Image.Resampling.BOX, reducing_gap=None)
        images.append(np.asarray(image))
    arrays = {
        "image": np.stack(images),
        "example_id": prototypes.example_id[mask].astype(str),
        "class_index": np.nonzero(mask)[0].astype(np.int32),
        "embedding": embedding,
    }
    save_arrays(folder / EXTRA / _PROTOTYPES, arrays)


def load_prototype_images(saved_model: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an exported model's prototypes, empty where it has none."""
    path = saved_model / EXTRA / _PROTOTYPES
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def render_model_card(facts: dict[str, Any]) -> str:
    """Renders the content of `metadata.json` as Markdown.

    Facts that a run adds (dataset, calibration, results, flags) may be missing.
    """
    score, (low, high) = get_score(facts["rule"]), facts["threshold_range"]
    scale = f", from {low:g} to {high:g}" if -LARGEST < low < high < LARGEST else ""
    # Not HTML: nothing is escaped but by `_names`.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pmal_tf.results", "page"),
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(f"{MODEL_CARD}.j2").render(
        facts,
        score=f"{score.title} ({score.meaning}{scale})",
        names=_names,
        percent=lambda share: f"{100 * share:.1f} %",
    )


def _names(names: list[str], most: int) -> str:
    """Lists names as code, each on one line and without a backtick."""
    plain = (" ".join(name.split()).replace("`", "'") for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in plain) + more
