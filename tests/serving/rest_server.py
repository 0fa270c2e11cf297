"""One model behind the REST API that TF Serving publishes in its `api_rest.md`."""

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

URL = re.compile(r"/v1/models/cifar10(?:/versions/1|/labels/\w+)?(/metadata|:predict)?")


@contextlib.contextmanager
def serve_rest(folder: Path) -> Iterator[int]:
    """Serves an exported version as `cifar10`; gives the port."""
    signatures = tf.saved_model.load(str(folder)).signatures

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match = URL.fullmatch(self.path)
            if match is None or match[1] == ":predict":
                return self.reply(404, {"error": "Malformed request"})
            return self.reply(200, metadata(folder) if match[1] else status())

        def do_POST(self) -> None:
            match = URL.fullmatch(self.path)
            if match is None or match[1] != ":predict":
                return self.reply(404, {"error": "Malformed request"})
            try:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                return self.reply(200, predict(signatures, body))
            except (ValueError, tf.errors.InvalidArgumentError) as error:
                return self.reply(400, {"error": str(error)})

        def reply(self, code: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Keeps the test's output clean."""

    with HTTPServer(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def predict(signatures: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Answers a request in row (`instances`) or column (`inputs`) format."""
    name = body.get("signature_name", "serving_default")
    if name not in signatures:
        raise ValueError(f"Serving signature name: {name!r} not found")
    if ("instances" in body) == ("inputs" in body):
        raise ValueError("Request must have either 'instances' or 'inputs'")
    signature = signatures[name]
    _, specs = signature.structured_input_signature
    columns = read_columns(body, list(specs))
    if set(columns) != set(specs):
        raise ValueError(f"Inputs must be {sorted(specs)}, not {sorted(columns)}")
    outputs = signature(
        **{key: tf.constant(value, specs[key].dtype) for key, value in columns.items()}
    )
    written = {key: write(key, value.numpy()) for key, value in outputs.items()}
    # A single output goes without its name.
    if "inputs" in body:
        return {"outputs": written if len(written) > 1 else written.popitem()[1]}
    rows = zip(*written.values(), strict=True)
    named = [dict(zip(written, row, strict=True)) for row in rows]
    return {
        "predictions": named
        if len(written) > 1
        else [row.popitem()[1] for row in named]
    }


def read_columns(body: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Returns each input's values; a single input may go without its name."""
    if "inputs" in body:
        inputs = body["inputs"]
        named = isinstance(inputs, dict) and "b64" not in inputs
        return {
            key: read(x) for key, x in (inputs if named else {names[0]: inputs}).items()
        }
    rows = body["instances"]
    if not isinstance(rows, list) or not rows:
        raise ValueError("'instances' must be a list of at least one")
    named = isinstance(rows[0], dict) and "b64" not in rows[0]
    rows = rows if named else [{names[0]: row} for row in rows]
    if any(set(row) != set(rows[0]) for row in rows):
        raise ValueError("'instances' must all have the same inputs")
    return {key: [read(row[key]) for row in rows] for key in rows[0]}


def read(value: Any) -> Any:
    """Returns a JSON value with its `{"b64": ...}` objects as bytes."""
    if isinstance(value, list):
        return [read(item) for item in value]
    if isinstance(value, dict):
        if set(value) != {"b64"}:
            raise ValueError(f"Not base64 data: {sorted(value)}")
        return base64.b64decode(value["b64"], validate=True)
    return value


def write(name: str, value: Any) -> Any:
    """Returns an output as JSON; strings named `*_bytes` as base64."""
    if isinstance(value, np.ndarray):
        return [write(name, item) for item in value]
    if isinstance(value, bytes):
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(value).decode()}
        return value.decode()
    return value.item()


def metadata(folder: Path) -> dict[str, Any]:
    """Returns a GetModelMetadataResponse as JSON."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in saved.meta_graphs[0].signature_def.items():
        signatures.signature_def[name].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = "cifar10"
    response.model_spec.version.value = 1
    response.metadata["signature_def"].Pack(signatures)
    return json_format.MessageToDict(response, preserving_proto_field_name=True)


def status() -> dict[str, Any]:
    """Returns a GetModelStatusResponse as JSON."""
    response = get_model_status_pb2.GetModelStatusResponse()
    state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    response.model_version_status.add(version=1, state=state)
    return json_format.MessageToDict(response, preserving_proto_field_name=True)
