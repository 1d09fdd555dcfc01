"""A real HTTP server on 127.0.0.1 that knows Range and If-Range, and fails on demand."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong with one answer."""

    drop_after: int | None = None  # bytes of the body, then the connection is gone
    reset: bool = False  # gone by RST instead of FIN
    stall_after: int | None = None  # bytes of the body, then nothing more comes
    ignore_range: bool = False
    ignore_if_range: bool = False
    offset_shift: int = 0  # the answer to Range begins elsewhere
    status: int | None = None
    no_length: bool = False
    pause_after: int | None = None  # bytes of the body, then `meanwhile` is called
    meanwhile: Callable[[], object] = lambda: None


@dataclass
class Site:
    """What is served, what goes wrong next, and what was asked."""

    data: bytes
    etag: str = '"v1"'
    faults: list[Fault] = field(default_factory=list)  # one an answer, then
    always: Fault = field(default_factory=Fault)
    asked: list[str] = field(default_factory=list)  # the Range of each request
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    timeout = 30

    def do_GET(self) -> None:
        site: Site = self.server.site
        fault = site.faults.pop(0) if site.faults else site.always
        site.asked.append(self.headers.get("Range", ""))
        if fault.status:
            self.send_error(fault.status)
            return
        data, start = site.data, 0
        fresh = fault.ignore_if_range or self.headers.get("If-Range", site.etag) == site.etag
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and fresh and not fault.ignore_range:
            start = int(asked[1]) + fault.offset_shift
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if site.etag:
            self.send_header("ETag", site.etag)
        if not fault.no_length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self._body(data[start:], fault, site)

    def _body(self, data: bytes, fault: Fault, site: Site) -> None:
        if fault.pause_after is not None:
            self.wfile.write(data[: fault.pause_after])
            fault.meanwhile()
            data = data[fault.pause_after :]
        stops = [n for n in (fault.drop_after, fault.stall_after) if n is not None]
        self.wfile.write(data[: min(stops)] if stops else data)
        if fault.stall_after is not None:
            site.closing.wait(20)
        if fault.reset:
            time.sleep(0.3)  # a reset throws away what has not been read yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Clients that are killed break the pipe: that is what is tested."""

    def shutdown_request(self, request) -> None:
        """Close without the shutdown that would turn a reset into an orderly end."""
        self.close_request(request)


@contextmanager
def serving(data: bytes) -> Iterator[Site]:
    """Serve some bytes as Task03_Liver.tar."""
    site = Site(data)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.site = site
    site.url = f"http://127.0.0.1:{server.server_port}/Task03_Liver.tar"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
