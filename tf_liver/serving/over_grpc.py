"""Labels over gRPC, with TensorFlow Serving's own messages."""

import json
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tf_liver.serving.client import Address, Passing, ServerError, TooLarge

# gRPC takes no more than 4 MiB by itself, eight slices of 512².
NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Grpc:
    """Asks `volume` for int16 slices and `serving_default` for others, and only for their labels."""

    def __init__(self, address: Address) -> None:
        self._address = address
        target = urlsplit(address.url).netloc
        if address.tls:
            authority = address.ca_file.read_bytes() if address.ca_file else None
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(authority), NO_LIMIT)
        else:
            channel = grpc.insecure_channel(target, NO_LIMIT)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def labels(self, slices: np.ndarray) -> np.ndarray:
        """Return the label map (B, H, W) uint8 of slices in HU; raises as `Transport.labels`."""
        if slices.dtype == np.int16:
            return self._ask("volume", "volume", slices, "label")
        return self._ask("serving_default", "image", slices.astype(np.float32), "label")

    def describe(self) -> dict[str, Any]:
        """Return the model's metadata; raises as `Transport.labels`."""
        return json.loads(self._ask("describe", "question", [b"?"], "metadata")[0])

    def _ask(self, signature: str, name: str, value: Any, wanted: str) -> np.ndarray:
        """Return one output of a signature."""
        request = predict_pb2.PredictRequest(output_filter=[wanted])
        request.model_spec.name = self._address.model
        request.model_spec.signature_name = signature
        if self._address.version is not None:
            request.model_spec.version.value = self._address.version
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        token = [("authorization", f"Bearer {self._address.token}")] if self._address.token else None
        try:
            answer = self._stub.Predict(request, timeout=self._address.deadline_s, metadata=token)
        except grpc.RpcError as error:
            raise self._meaning(error) from error
        if wanted not in answer.outputs:
            raise ServerError(f"{self._address.url}: must answer with {wanted}. Received: {sorted(answer.outputs)}")
        return tf.make_ndarray(answer.outputs[wanted])

    def _meaning(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return TooLarge(details)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return Passing(details)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerError(f"{self._address.url}: no answer within {self._address.deadline_s:g} s")
        return ServerError(f"{self._address.url}: {code.name}: {details}")
