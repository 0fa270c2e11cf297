"""What TF Serving reads beside a model: warm-up requests, batching parameters.

The first request of every shape is slow, since the runtime prepares its graph then.
Before it makes a version available, TF Serving replays the requests of
`assets.extra/tf_serving_warmup_requests`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pmal_tf.runtime.files import write_atomically, write_text
from pmal_tf.serving.answers import Answering
from pmal_tf.serving.signatures import XLA_SIGNATURE

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_DEFAULT_SIDE = 64

_BATCHING = """\
# For tensorflow_model_server --enable_batching --batching_parameters_file=<this file>.
# Requests that arrive within two milliseconds of each other are computed together,
# filled up to one of these sizes, for which the model is warmed up.
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 2000 }}
max_enqueued_batches {{ value: 100 }}
{allowed}
"""


def write_batching_parameters(folder: Path) -> None:
    """Writes `batching_parameters.txt`, for the server's command line."""
    allowed = "\n".join(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES)
    text = _BATCHING.format(largest=BATCH_SIZES[-1], allowed=allowed)
    write_text(folder / "batching_parameters.txt", text)


def write_warm_up_requests(folder: Path, loaded: Any, answering: Answering) -> None:
    """Writes a request of every signature and batch size.

    Not of the one that XLA compiles: a server that has XLA switched off, as servers on
    CPUs have by default, would fail it, and with it the whole version.

    Args:
        folder: The model's folder of extra files.
        loaded: The loaded SavedModel.
        answering: What it answers with.
    """
    from tensorflow_serving.apis import prediction_log_pb2

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
                for size in BATCH_SIZES:
                    log = prediction_log_pb2.PredictionLog()
                    request = log.predict_log.request
                    request.model_spec.signature_name = name
                    for key, spec in inputs.items():
                        value = np.stack([samples[key]] * size)
                        proto = tf.make_tensor_proto(value, spec.dtype)
                        request.inputs[key].CopyFrom(proto)
                    writer.write(log.SerializeToString())

    write_atomically(folder / "tf_serving_warmup_requests", write)
