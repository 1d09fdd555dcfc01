"""Servers that drip, flood, or answer with what is no label map (rows 7, 14, 93 of the faults)."""

import base64
import contextlib
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import grpc
import numpy as np
import pytest

from tf_liver.serving.client import Address, RemoteModel, ServerError

SLICES = np.zeros((2, 8, 8), np.int16)


@contextlib.contextmanager
def raw_server(pieces, pause_s=0.0):
    """Serve bytes over HTTP, piece by piece with pauses, after a whole request has come."""
    asked = []

    def answer(near):
        with contextlib.suppress(OSError), near:
            request = b""
            while b"\r\n\r\n" not in request:
                request += near.recv(65536)
            asked.append(request)
            for piece in pieces():
                near.sendall(piece)
                time.sleep(pause_s)

    def accept(listener):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked


def body(text, *headers, status="200 OK"):
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + text


def endless(first, piece):
    yield first
    while True:
        yield piece


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b""),
    ],
    ids=["body", "header", "chunks", "continue", "silence"],
)
def test_the_deadline_is_of_the_whole_answer(first, piece):
    with raw_server(lambda: endless(first, piece), 0.05) as (url, _):
        begin = time.monotonic()
        with pytest.raises(ServerError, match=rf"{url}: no answer within 0\.7 s"):
            RemoteModel(Address(url, deadline_s=0.7, token="")).segment(SLICES)
        assert 0.6 < time.monotonic() - begin < 2


@pytest.mark.parametrize(
    "pieces",
    [
        lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n"],
        lambda: endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
        lambda: endless(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"
        ),
        lambda: [body(gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip")],
        lambda: endless(b"HTTP/1.1 500 no\r\n\r\n", b" " * 65536),
    ],
    ids=["promised", "until-close", "chunks", "gzip-bomb", "error"],
)
@pytest.mark.parametrize("ask", [lambda m: m.segment(SLICES), lambda m: m.describe()], ids=["labels", "metadata"])
def test_a_flood_is_stopped(pieces, ask):
    with raw_server(pieces) as (url, _), pytest.raises(ServerError, match=r"bytes or less\. Received: more"):
        ask(RemoteModel(Address(url, deadline_s=20, token="")))


def test_a_packed_answer_is_unpacked_and_a_redirect_followed_nowhere():
    answer = json.dumps({"outputs": [json.dumps({"model": "tiny"})]}).encode()
    with raw_server(lambda: [body(gzip.compress(answer), "Content-Encoding: gzip")]) as (url, asked):
        assert RemoteModel(Address(url, token="")).describe() == {"model": "tiny"}
        moved = body(b"", f"Location: {url}/x", status="307 Moved")
        with raw_server(lambda: [moved]) as (other, _), pytest.raises(ServerError, match="307: Moved"):
            RemoteModel(Address(other, token="")).describe()
        assert len(asked) == 1


def test_text_of_a_server_is_short_and_plain():
    text = json.dumps({"error": "\x1b]0;gotcha\x07\u202e\r\n" + "no " * 1000}).encode()
    with raw_server(lambda: [body(text, status="400 Bad")]) as (url, _), pytest.raises(ServerError) as caught:
        RemoteModel(Address(url, token="")).segment(SLICES)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{url}: 400: ]0;gotcha no no")
    assert len(str(caught.value)) < 260


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


LABELS = png(np.ones((8, 8), np.uint8))


@pytest.mark.parametrize(
    ("pngs", "message"),
    [
        ([LABELS, png(np.full((8, 8), 77, np.uint8))], r"labels must be 0, 1 or 2\. Received: 77"),
        ([LABELS], r"there must be 2 of them\. Received: 1"),
        ([LABELS] * 3, r"there must be 2 of them\. Received: 3"),
        ([LABELS, png(np.ones((9, 8), np.uint8))], r"8-bit PNGs of \(8, 8\)\. Received: \(9, 8\)"),
        ([LABELS, png(np.ones((8, 8), np.uint16))], "16 bits"),
        ([LABELS, png(np.ones((8, 8, 3), np.uint8))], "colour type 2"),
        ([LABELS, LABELS[:-20]], "no whole picture"),
        ([LABELS, b""], "no whole picture"),
        ([LABELS, LABELS[:45] + b"\xff\xff\xff\xff" + LABELS[49:]], "damaged picture"),
    ],
)
def test_labels_that_are_none_over_rest(pngs, message):
    text = json.dumps({"outputs": [{"b64": base64.b64encode(p).decode()} for p in pngs]}).encode()
    with raw_server(lambda: [body(text)]) as (url, _), pytest.raises(ServerError, match=message) as caught:
        RemoteModel(Address(url, token="")).segment(SLICES)
    assert str(caught.value).startswith(url)


@pytest.mark.parametrize(
    "said",
    ["[]", "{", "[" * 100_000, '{"neighbours": 1000000000}', '{"neighbours": "a"}', '{"neighbours": NaN}', "\udce9"],
)
def test_metadata_that_are_none(said):
    text = json.dumps({"outputs": [said]}).encode()
    with raw_server(lambda: [body(text)]) as (url, _), pytest.raises(ServerError, match=f"{url}: .*must be"):
        RemoteModel(Address(url, token="")).describe()


@contextlib.contextmanager
def grpc_server(answer, **options):
    """Serve one answer of `Predict`, a message or bytes, over gRPC."""
    from tensorflow_serving.apis import predict_pb2

    def predict(request, context):
        return answer()

    handler = grpc.unary_unary_rpc_method_handler(
        predict, predict_pb2.PredictRequest.FromString, lambda m: m.SerializeToString()
    )
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
    unlimited = [("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(2), [service], options=unlimited, **options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(0)


def message(name, array):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    answer = predict_pb2.PredictResponse()
    answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
    return answer


def splat():
    """One value that stands for 10^12 of them."""
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import predict_pb2

    answer = predict_pb2.PredictResponse()
    tensor = answer.outputs["label"]
    tensor.dtype = types_pb2.DT_UINT8
    tensor.int_val.append(1)
    for _ in range(2):
        tensor.tensor_shape.dim.add(size=10**6)
    return answer


def grpc_labels_cases():
    return [
        (lambda: message("label", np.full((2, 8, 8), 77, np.uint8)), r"labels must be 0, 1 or 2\. Received: 77"),
        (lambda: message("label", np.full((2, 8, 8), np.nan, np.float32)), r"must answer with uint8.*float32"),
        (lambda: message("label", np.ones((2, 8, 9), np.uint8)), r"Received: uint8 \(2, 8, 9\)"),
        (lambda: message("probability", np.ones((2, 8, 8), np.uint8)), "must answer with label"),
        (splat, r"Received: uint8 \(1000000, 1000000\)"),
        (lambda: message("label", np.zeros(9_000_000, np.uint8)), "longer than a right one can be"),
    ]


@pytest.mark.parametrize(("answer", "text"), grpc_labels_cases())
def test_labels_that_are_none_over_grpc(answer, text):
    with grpc_server(answer) as url, pytest.raises(ServerError, match=text) as caught:
        RemoteModel(Address(url, token="", deadline_s=10)).segment(SLICES)
    assert str(caught.value).startswith(url)


def test_a_packed_flood_over_grpc():
    flood = message("label", np.zeros(9_000_000, np.uint8))
    with (
        grpc_server(lambda: flood, compression=grpc.Compression.Gzip) as url,
        pytest.raises(ServerError, match=f"{url}: INTERNAL"),
    ):
        RemoteModel(Address(url, token="", deadline_s=10)).segment(SLICES)


@pytest.mark.parametrize("said", [b"[]", b"\xff\xfe", b'{"neighbours": -1}'])
def test_metadata_that_are_none_over_grpc(said):
    with grpc_server(lambda: message("metadata", [said])) as url, pytest.raises(ServerError, match=f"{url}: .*must be"):
        RemoteModel(Address(url, token="", deadline_s=10)).describe()
