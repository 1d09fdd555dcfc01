"""A stand-in for tensorflow_model_server, which is in no package registry: a test double, never shipped.

    python tests/serving/standin.py EXPORT [--poll 0.2] [--tls FOLDER]

It serves EXPORT/tf_liver/<N>/ through TensorFlow's C++ loader, over gRPC (PredictionService, ModelService) and over
the REST routes of tensorflow.org/tfx/serving/api_rest, and prints one JSON line with its ports once a version is
there. As TF Serving does, it follows the newest version: that one is loaded and warmed up beside the old one, which
answers until then and goes on answering when the new one cannot be loaded. `grpc_small` is the same service with
gRPC's own limit of 4 MiB; with FOLDER/key.pem and cert.pem there are `grpcs` and `https`, too. POST /faults sets what
goes wrong: {"delay_s", "unavailable", "refuse", "limit_bytes", "token"}.
"""

import argparse
import base64
import json
import re
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

import tf_liver  # noqa: F401  sets the framework switches before TensorFlow is imported

# isort: split
import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tf_liver.serving.check import read_signatures
from tf_liver.serving.loader import LoadedModel, ServingError

STATUS = get_model_status_pb2.ModelVersionStatus
CODES = {code.value[0]: code for code in grpc.StatusCode}
HTTP = {3: 400, 4: 504, 5: 404, 8: 429, 9: 412, 12: 501, 14: 503, 16: 401}


class Version:
    """A loaded version."""

    def __init__(self, folder: Path) -> None:
        self.number = int(folder.name)
        self.model = LoadedModel(folder, read_signatures(folder))
        graph = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
        self.signatures = {k: v for k, v in graph.signature_def.items() if not k.startswith("__")}
        warmup = folder / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.data.TFRecordDataset(str(warmup)) if warmup.exists() else ():
            request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
            self.run(request.model_spec.signature_name, {k: as_value(v) for k, v in request.inputs.items()})

    def run(self, signature: str, inputs: dict[str, Any], only: tuple[str, ...] = ()) -> dict[str, Any]:
        signature = signature or "serving_default"
        if signature not in self.signatures:
            raise ServingError(f'Serving signature name: "{signature}" not found in signature def', 9)
        known = self.signatures[signature].inputs
        if set(inputs) != set(known):
            raise ServingError(f"input size does not match signature: {sorted(inputs)} vs {sorted(known)}", 3)
        for name, value in inputs.items():
            kind = "DT_STRING" if isinstance(value, list) else tf.as_dtype(value.dtype)._type_enum
            if kind not in ("DT_STRING", known[name].dtype):
                raise ServingError(f"input {name} has another type than the signature", 3)
        return self.model.run(signature, inputs, only)


class Models:
    """The newest version that could be loaded, and the fate of the others."""

    def __init__(self, root: Path) -> None:
        self._root, self.current, self.failed = root, None, {}

    def poll(self) -> None:
        newest = max((int(p.name) for p in self._root.iterdir() if p.name.isdigit()), default=0)
        if newest in self.failed or newest == (self.current.number if self.current else 0):
            return
        try:
            self.current = Version(self._root / str(newest))
        except Exception as error:
            self.failed[newest] = str(error)

    def get(self, name: str, number: int | None) -> Version:
        now = self.current
        if name != self._root.name or now is None or number not in (None, now.number):
            asked = f"Specific({name}, {number})" if number else f"Latest({name})"
            raise ServingError(f"Servable not found for request: {asked}", 5)
        return now

    def status(self, name: str, number: int | None) -> get_model_status_pb2.GetModelStatusResponse:
        answer = get_model_status_pb2.GetModelStatusResponse()
        if name == self._root.name and self.current:
            answer.model_version_status.add(version=self.current.number, state=STATUS.AVAILABLE)
        for version, message in self.failed.items():
            answer.model_version_status.add(version=version, state=STATUS.END).status.error_message = message
        if not answer.model_version_status:
            self.get(name, number)
        return answer


class Faults:
    """What goes wrong, for both protocols."""

    def __init__(self) -> None:
        self._lock, self._table = threading.Lock(), {}

    def set(self, table: dict[str, Any]) -> None:
        self._table = table

    def strike(self, size: int, authorization: str | None) -> None:
        if self._table.get("token") and authorization != f"Bearer {self._table['token']}":
            raise ServingError("who are you?", 16)
        if size > self._table.get("limit_bytes", size):
            raise ServingError("request larger than max", 8)
        time.sleep(self._table.get("delay_s", 0))
        with self._lock:
            left = self._table.get("unavailable", 0)
            self._table["unavailable"] = max(left - 1, 0)
        if left:
            raise ServingError("the server is restarting", 14)
        if "refuse" in self._table:
            raise ServingError(self._table["refuse"], 3)


def as_value(proto: Any) -> Any:
    """Return a TensorProto as the loader takes it."""
    array = tf.make_ndarray(proto)
    return [bytes(text) for text in array.ravel()] if array.dtype == object else array


def answering(context: grpc.ServicerContext, work: Any) -> Any:
    try:
        return work()
    except ServingError as error:
        context.abort(CODES[error.code], str(error))


class Service(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """gRPC."""

    def __init__(self, models: Models, faults: Faults) -> None:
        self._models, self._faults = models, faults

    def _version(self, spec: Any) -> Version:
        return self._models.get(spec.name, spec.version.value if spec.HasField("version") else None)

    def Predict(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            self._faults.strike(request.ByteSize(), dict(context.invocation_metadata()).get("authorization"))
            version = self._version(request.model_spec)
            inputs = {name: as_value(value) for name, value in request.inputs.items()}
            outputs = version.run(request.model_spec.signature_name, inputs, tuple(request.output_filter))
            answer = predict_pb2.PredictResponse(model_spec=request.model_spec)
            answer.model_spec.version.value = version.number
            for name, value in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return answer

        return answering(context, work)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        def work() -> Any:
            version = self._version(request.model_spec)
            answer = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
            answer.model_spec.version.value = version.number
            table = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in version.signatures.items():
                table.signature_def[name].CopyFrom(signature)
            answer.metadata["signature_def"].Pack(table)
            return answer

        return answering(context, work)

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        spec = request.model_spec
        return answering(context, lambda: self._models.status(spec.name, spec.version.value or None))


def from_json(value: Any, dtype: int) -> Any:
    """Return a tensor from JSON: nested lists, or a list of {"b64": …}."""
    if dtype == tf.string.as_datatype_enum:
        return [base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode() for v in value]
    return np.array(value, tf.as_dtype(dtype).as_numpy_dtype)


def to_json(name: str, value: Any) -> Any:
    """Return a tensor as JSON: strings of outputs whose names end in _bytes are binary."""
    if isinstance(value, list):
        return [{"b64": base64.b64encode(v).decode()} if name.endswith("_bytes") else v.decode() for v in value]
    return value.tolist()


class Rest(BaseHTTPRequestHandler):
    """REST."""

    protocol_version = "HTTP/1.1"
    models: Models
    faults: Faults

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/faults":
            self.faults.set(json.loads(body))
            self._send(200, {})
        else:
            self._answer(lambda: self._predict(body))

    def _route(self, end: str) -> tuple[str, int | None]:
        found = re.fullmatch(rf"/v1/models/([^/:]+)(?:/versions/(\d+))?{end}", self.path)
        if not found:
            raise ServingError(f"Malformed request: {self.command} {self.path}", 3)
        return found[1], int(found[2]) if found[2] else None

    def _get(self) -> dict[str, Any]:
        if self.path.endswith("/metadata"):
            name, number = self._route("/metadata")
            version = self.models.get(name, number)
            signatures = {k: json_format.MessageToDict(v) for k, v in version.signatures.items()}
            return {"model_spec": {"name": name, "version": str(version.number)}, "metadata": signatures}
        return json_format.MessageToDict(self.models.status(*self._route("")), preserving_proto_field_name=True)

    def _predict(self, body: bytes) -> dict[str, Any]:
        self.faults.strike(len(body), self.headers.get("authorization"))
        version = self.models.get(*self._route(":predict"))
        request = json.loads(body)
        signature = request.get("signature_name", "serving_default")
        known = version.signatures.get(signature)
        if known is None:
            raise ServingError(f'Serving signature name: "{signature}" not found in signature def', 9)
        rows = "instances" in request
        given = request["instances" if rows else "inputs"]
        (name,) = known.inputs  # every signature here has one input
        if rows and isinstance(given[0], dict) and name in given[0]:
            given = [row[name] for row in given]
        elif isinstance(given, dict):
            given = given[name]
        outputs = version.run(signature, {name: from_json(given, known.inputs[name].dtype)})
        table = {name: to_json(name, value) for name, value in outputs.items()}
        if rows:
            listed = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
            return {"predictions": listed if len(table) > 1 else next(iter(table.values()))}
        return {"outputs": table if len(table) > 1 else next(iter(table.values()))}

    def _answer(self, work: Any) -> None:
        try:
            self._send(200, work())
        except ServingError as error:
            too_large = "larger than max" in str(error)
            self._send(413 if too_large else HTTP.get(error.code, 500), {"error": str(error)})
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._send(400, {"error": f"JSON: {error!r}"})

    def _send(self, code: int, table: dict[str, Any]) -> None:
        data = json.dumps(table).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def serve(models: Models, poll_s: float, tls: Path | None) -> None:
    """Serve until the process that started this one closes its end of our input."""
    faults = Faults()
    Rest.models, Rest.faults = models, faults
    service, ports, servers = Service(models, faults), {}, []
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    for name, options in (("grpc", unlimited), ("grpc_small", []), *([("grpcs", unlimited)] if tls else [])):
        server = grpc.server(ThreadPoolExecutor(8), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
        if name == "grpcs":
            pair = ((tls / "key.pem").read_bytes(), (tls / "cert.pem").read_bytes())
            ports[name] = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        else:
            ports[name] = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)  # one that nobody holds is stopped
    for name in ("rest", "https") if tls else ("rest",):
        rest = ThreadingHTTPServer(("127.0.0.1", 0), Rest)
        if name == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
            rest.socket = context.wrap_socket(rest.socket, server_side=True)
        ports[name] = rest.server_port
        threading.Thread(target=rest.serve_forever, daemon=True).start()
    print(json.dumps(ports), flush=True)
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    while not closed.wait(poll_s):
        models.poll()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--poll", type=float, default=0.2)
    parser.add_argument("--tls", type=Path)
    options = parser.parse_args()
    models = Models(options.export / "tf_liver")
    models.poll()
    serve(models, options.poll, options.tls)


if __name__ == "__main__":
    main()
