"""One model behind TF Serving's published gRPC service."""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers `Predict` by an exported version, named `cifar10`; keeps the requests."""

    def __init__(self, folder: Path) -> None:
        self.signatures = tf.saved_model.load(str(folder)).signatures
        self.requests: list[predict_pb2.PredictRequest] = []

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        self.requests.append(request)
        name = request.model_spec.signature_name or "serving_default"
        if request.model_spec.name != "cifar10" or name not in self.signatures:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        try:
            outputs = self.signatures[name](**inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response


@contextlib.contextmanager
def serve_grpc(folder: Path) -> Iterator[tuple[int, PredictionService]]:
    """Serves an exported version; gives the port and the service."""
    service = PredictionService(folder)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield port, service
    finally:
        server.stop(None).wait()
