"""Labels over gRPC, with TensorFlow Serving's own messages."""

from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tf_liver.serving.answers import MARGIN_BYTES, METADATA_BYTES, AnswerError, checked_metadata, plain
from tf_liver.serving.client import Address, Passing, ServerError, TooLarge

COMPRESSION_OFF = [("grpc.compression_enabled_algorithms_bitset", 1)]  # gRPC 1.8x counts packed bytes only


_KINDS = {kind.as_datatype_enum for kind in (tf.uint8, tf.float32, tf.float64, tf.int32, tf.int64, tf.string)}


class Grpc:
    """Asks `volume` for int16 slices and `serving_default` for others, and only for their labels."""

    def __init__(self, address: Address) -> None:
        self._address, self._stubs = address, dict[int, Any]()

    def _stub(self, most_bytes: int) -> Any:
        """Return a connection that takes answers of so many bytes, or up to twice as many.

        A limit is a channel's, not a request's; powers of two keep the channels few.
        """
        limit = 1 << most_bytes.bit_length()
        if limit not in self._stubs:
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", limit)]
            self._stubs[limit] = prediction_service_pb2_grpc.PredictionServiceStub(
                self._channel([*options, *COMPRESSION_OFF])
            )
        return self._stubs[limit]

    def _channel(self, options: list[tuple[str, int]]) -> grpc.Channel:
        target, ca_file = urlsplit(self._address.url).netloc, self._address.ca_file
        if not self._address.tls:
            return grpc.insecure_channel(target, options)
        authority = ca_file.read_bytes() if ca_file else None
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority), options)

    def labels(self, slices: np.ndarray) -> np.ndarray:
        """Return the label map (B, H, W) uint8 of slices in HU; raises as `Transport.labels`."""
        if slices.dtype == np.int16:
            answer = self._ask("volume", "volume", slices, "label", slices.size + MARGIN_BYTES)
        else:
            answer = self._ask(
                "serving_default", "image", slices.astype(np.float32), "label", slices.size + MARGIN_BYTES
            )
        return tensor_of(answer, tf.uint8, slices.shape)

    def describe(self) -> dict[str, Any]:
        """Return the model's metadata; raises as `Transport.labels`."""
        answer = self._ask("describe", "question", [b"?"], "metadata", METADATA_BYTES)
        return checked_metadata(tensor_of(answer, tf.string, (1,))[0])

    def _ask(self, signature: str, name: str, value: Any, wanted: str, most_bytes: int) -> Any:
        """Return one output of a signature, a TensorProto."""
        request = predict_pb2.PredictRequest(output_filter=[wanted])
        request.model_spec.name = self._address.model
        request.model_spec.signature_name = signature
        if self._address.version is not None:
            request.model_spec.version.value = self._address.version
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        token = [("authorization", f"Bearer {self._address.token}")] if self._address.token else None
        try:
            answer = self._stub(most_bytes).Predict(request, timeout=self._address.deadline_s, metadata=token)
        except grpc.RpcError as error:
            raise self._meaning(error) from error
        if wanted not in answer.outputs:
            raise AnswerError(f"must answer with {wanted}. Received: {plain(str(sorted(answer.outputs)))}")
        return answer.outputs[wanted]

    def _meaning(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), plain(error.details() or "")
        if "CLIENT: Received message larger than max" in details:
            return ServerError(f"{self._address.url}: the answer is longer than a right one can be: {details}")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return TooLarge(details)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return Passing(details)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerError(f"{self._address.url}: no answer within {self._address.deadline_s:g} s")
        return ServerError(f"{self._address.url}: {code.name}: {details}")


def tensor_of(answer: Any, dtype: tf.DType, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array in a TensorProto; type and shape are looked at first: one value may stand for any number.

    Raises:
        AnswerError: another type or shape, or not as many values.
    """
    received = tuple(size.size for size in answer.tensor_shape.dim)
    if answer.dtype != dtype.as_datatype_enum or received != shape or answer.tensor_shape.unknown_rank:
        name = tf.dtypes.DType(answer.dtype).name if answer.dtype in _KINDS else f"type {answer.dtype}"
        raise AnswerError(f"must answer with {dtype.name} {shape}. Received: {name} {received}; is it another model?")
    try:
        return tf.make_ndarray(answer)
    except (ValueError, TypeError) as error:
        raise AnswerError(f"must answer with {dtype.name} {shape}: {plain(str(error))}") from error
