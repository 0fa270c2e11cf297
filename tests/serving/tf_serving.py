"""What TF Serving publishes, its REST API and its gRPC service, without the wires."""

import base64
import json
import re
from types import SimpleNamespace

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

URL = re.compile(
    r"http://localhost:8501/v1/models/cifar10"
    r"(?:/versions/1|/labels/\w+)?(?:/metadata|:predict)?"
)


def stub_class(signatures, requests):
    """Returns what takes the place of `PredictionServiceStub`, and keeps requests."""

    class Stub:
        def __init__(self, channel):
            del channel

        def Predict(self, request, timeout):
            request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
            requests.append(request)
            assert request.model_spec.name == "cifar10"
            signature = signatures[
                request.model_spec.signature_name or "serving_default"
            ]
            inputs = {
                k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()
            }
            response = predict_pb2.PredictResponse()
            for key, value in signature(**inputs).items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return response

    return Stub


def poster(signatures):
    """Returns what takes the place of `requests.post`."""

    def post(url, *, json, timeout):
        assert URL.fullmatch(url)[0].endswith(":predict")
        try:
            status, content = 200, predict(signatures, json)
        except tf.errors.InvalidArgumentError as error:
            status, content = 400, {"error": str(error)}
        return SimpleNamespace(status_code=status, json=lambda: content)

    return post


def predict(signatures, body):
    """Answers a request in row (`instances`) or column (`inputs`) format."""
    body = json.loads(json.dumps(body))
    signature = signatures[body.get("signature_name", "serving_default")]
    _, specs = signature.structured_input_signature
    by_row = "instances" in body
    assert by_row != ("inputs" in body)
    if by_row:
        rows = body["instances"]
        # A single input may go without its name.
        named = isinstance(rows[0], dict) and "b64" not in rows[0]
        rows = rows if named else [dict.fromkeys(specs, row) for row in rows]
        assert all(set(row) == set(specs) for row in rows)
        columns = {key: [read(row[key]) for row in rows] for key in specs}
    else:
        columns = body["inputs"]
    outputs = signature(
        **{key: tf.constant(value, specs[key].dtype) for key, value in columns.items()}
    )
    written = {key: write(value.numpy().tolist()) for key, value in outputs.items()}
    if not by_row:
        return {"outputs": written}
    rows = zip(*written.values(), strict=True)
    return {"predictions": [dict(zip(written, row, strict=True)) for row in rows]}


def read(value):
    """Returns a JSON value with `{"b64": ...}` as bytes."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def write(value):
    """Returns an output as JSON."""
    if isinstance(value, list):
        return [write(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
