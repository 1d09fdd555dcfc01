"""Server processes over an export, and a wire that breaks."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

STANDIN = Path(__file__).with_name("standin.py")
MODEL_SERVER = "tensorflow_model_server"


class Server:
    """A server process and its ports."""

    def __init__(self, command, ports=None):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ports = ports or json.loads(self.process.stdout.readline())

    def url(self, name):
        scheme = {"rest": "http", "grpc_small": "grpc"}.get(name, name)
        return f"{scheme}://localhost:{self.ports[name]}"

    def faults(self, **table):
        body = json.dumps(table).encode()
        urllib.request.urlopen(f"{self.url('rest')}/faults", body, timeout=10).close()

    def status(self):
        with urllib.request.urlopen(f"{self.url('rest')}/v1/models/tf_liver", timeout=10) as answer:
            return json.load(answer)["model_version_status"]

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def standin(export, *options):
    server = Server([sys.executable, str(STANDIN), str(export), *map(str, options)])
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def model_server(export):
    """TF Serving itself, where it is on the PATH."""
    ports = {}
    for name in ("grpc", "rest"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports[name] = free.getsockname()[1]
    options = [f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", "--model_name=tf_liver"]
    server = Server([MODEL_SERVER, *options, f"--model_base_path={export / 'tf_liver'}"], ports)
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                if any(version["state"] == "AVAILABLE" for version in server.status()):
                    break
            time.sleep(0.5)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(10)


@contextlib.contextmanager
def breaking_wire(port, after_bytes):
    """Give a port that leads to another one; its first connection breaks off in the middle of the answer."""
    connections = []

    def pump(source, target, limit):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                limit -= len(data)
                target.sendall(data[: max(0, len(data) + min(limit, 0))])
                if limit <= 0:
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(listener):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                limit = after_bytes if not connections else 1 << 40
                connections.append(near)
                threading.Thread(target=pump, args=(near, far, 1 << 40), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, limit), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], connections
