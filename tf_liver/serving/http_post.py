"""One POST over HTTP whose whole answer has a deadline and a limit.

Clients count their timeouts from one read to the next, so a server that drips is never late (urllib3 2, requests,
http.client alike): here the connection is shut when the time is over, whatever it is doing. A connection for each
request: one carries up to 32 MiB, beside which opening it does not count.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

CONNECT_S = 10.0
PIECE_BYTES = 1 << 20


class TooSlowError(Exception):
    """The answer was not there in time."""


class TooLongError(Exception):
    """The answer, unpacked, is longer than any right one."""


@dataclass(frozen=True)
class HttpAnswer:
    """What came back; redirects are answers like others, and are followed nowhere."""

    status: int
    reason: str
    body: bytes


def post(
    url: str, body: bytes, headers: dict[str, str], most_bytes: int, deadline_s: float, trust: ssl.SSLContext | None
) -> HttpAnswer:
    """Send a body and return the answer.

    trust: whose certificates are believed, for https.

    Raises:
        TooSlowError, TooLongError: see there.
        OSError, http.client.HTTPException: no connection, or one that broke off.
    """
    end = time.monotonic() + deadline_s
    parts = urlsplit(url)
    assert parts.hostname
    first = min(CONNECT_S, deadline_s)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=first, context=trust)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=first)
    with contextlib.closing(connection):
        connection.connect()  # Python's TLS handshake keeps the timeout as a whole
        with _shut_at(end, connection.sock) as late:
            try:
                with contextlib.suppress(BrokenPipeError):  # it may refuse, and say so, before it has read all
                    connection.request("POST", parts.path, body, headers)
                answer = connection.getresponse()
                whole = _read(answer, most_bytes)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if late.is_set():
                    raise TooSlowError from error
                raise
            if late.is_set():
                raise TooSlowError
            return HttpAnswer(answer.status, answer.reason, whole)


@contextlib.contextmanager
def _shut_at(end: float, connected: socket.socket) -> Iterator[threading.Event]:
    """Shut a connection when its time is over, and tell by the event."""
    late = threading.Event()

    def shut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which takes its TLS away under a thread that reads.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    connected.settimeout(None)
    timer = threading.Timer(max(0.0, end - time.monotonic()), shut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()


def _read(answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """Return the body, unpacked."""
    if answer.length is not None and answer.length > most_bytes:
        raise TooLongError
    packed = answer.headers.get("Content-Encoding", "identity").lower() in ("gzip", "x-gzip", "deflate")
    unpack = zlib.decompressobj(47) if packed else None  # 47: gzip or zlib, by its first bytes
    parts, left = [], most_bytes
    while piece := answer.read1(PIECE_BYTES):
        while piece:
            part = piece
            piece = b""
            if unpack:
                try:
                    part = unpack.decompress(part, PIECE_BYTES)
                except zlib.error as error:
                    raise http.client.HTTPException(f"compressed answer: {error}") from error
                piece = unpack.unconsumed_tail
            left -= len(part)
            if left < 0:
                raise TooLongError
            parts.append(part)
    if answer.length or (unpack and not unpack.eof):
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)
