"""The warm-up requests beside a model are such that the model answers them."""

import collections
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

SIZES = [1, 2, 4, 8, 16, 32]
WRAPPED = r"(max_batch_size|batch_timeout_micros|max_enqueued_batches) { value: (\d+) }"


@pytest.fixture(scope="module")
def requests(exported):
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def read_inputs(request):
    return {key: tf.make_ndarray(value) for key, value in request.inputs.items()}


def test_every_signature_is_asked_in_every_size(loaded, requests):
    sizes = collections.defaultdict(list)
    for request in requests:
        lengths = {len(value) for value in read_inputs(request).values()}
        assert len(lengths) == 1
        sizes[request.model_spec.signature_name].append(lengths.pop())
    assert dict(sizes) == {name: SIZES for name in loaded.signatures}
    # The server takes no more.
    assert len(requests) <= 1000


def test_every_request_is_answered(loaded, requests):
    for request in requests:
        signature = loaded.signatures[request.model_spec.signature_name]
        inputs = read_inputs(request)
        _, specs = signature.structured_input_signature
        assert {key: tf.as_dtype(x.dtype) for key, x in inputs.items()} == {
            key: spec.dtype for key, spec in specs.items()
        }
        outputs = signature(**{key: tf.constant(x) for key, x in inputs.items()})
        count = len(next(iter(inputs.values())))
        assert {len(value) for value in outputs.values()} == {count}
        # What cannot be read would leave the network cold.
        if "error" in outputs:
            assert set(outputs["error"].numpy()) == {b""}
        if "distance" in outputs:
            assert (outputs["distance"].numpy() < 2).all()


def test_batching_pads_to_the_sizes_that_are_warm(exported):
    # The package of TF Serving's messages leaves BatchingParameters out: its fields
    # (session_bundle_config.proto) are written down here.
    text = (exported / "assets.extra" / "batching_parameters.txt").read_text()
    values, allowed = {}, []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, number = line.partition(": ")
        if name == "allowed_batch_sizes":
            allowed.append(int(number))
        else:
            match = re.fullmatch(WRAPPED, line)
            assert match, line
            values[match[1]] = int(match[2])
    assert len(values) == 3
    # The server asks for rising sizes, of which the last is the largest batch.
    assert allowed == SIZES
    assert values["max_batch_size"] == allowed[-1]
    np.testing.assert_array_less(0, list(values.values()))
