"""The viewer's server: one page, niivue, and the scans and masks of one evaluation, on this machine alone."""

import json
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tf_liver.data.cases import Case
from tf_liver.data.gunzip import MAGIC
from tf_liver.volume.evaluation import Evaluation
from tf_liver.volume.overlay import DISPLAY_WINDOW_HU

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".json": "application/json"}
# niivue keeps its fonts in data URLs and makes workers from blobs.
_POLICY = (
    "default-src 'self'; script-src 'self' blob:; worker-src blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:"
)


class Viewer(ThreadingHTTPServer):
    """Serves `files`, URL path → file or bytes, and nothing else: no path of a request ever reaches the disk."""

    daemon_threads = True

    def __init__(self, files: dict[str, Path | bytes], port: int) -> None:
        self.files = files
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Viewer

    def do_GET(self) -> None:
        """Answer with a file of the table, or 404."""
        # A page elsewhere whose name was made to point here (DNS rebinding) still sends its own name.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        path = self.path.split("?")[0]
        content = self.server.files.get(path)
        if content is None or (isinstance(content, Path) and not content.is_file()):
            return self.send_error(HTTPStatus.NOT_FOUND)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES.get(Path(path).suffix or ".html", "application/octet-stream"))
        self.send_header("Content-Length", str(content.stat().st_size if isinstance(content, Path) else len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if isinstance(content, bytes):
            self.wfile.write(content)
            return None
        with open(content, "rb") as stream:
            return shutil.copyfileobj(stream, self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal quiet."""


def viewer_files(evaluation: Evaluation, cases: Sequence[Case]) -> dict[str, Path | bytes]:
    """Return what a viewer of an evaluation serves: URL path → file or bytes."""
    files: dict[str, Path | bytes] = {
        "/": PAGE / "viewer.html",
        "/viewer.js": PAGE / "viewer.js",
        "/niivue.umd.js": PAGE / "niivue.umd.js",
    }
    by_id, table = {case.case_id: case for case in cases}, []
    for number, case_id in enumerate(dict.fromkeys(row["case_id"] for row in evaluation.rows)):
        scan, prediction = by_id.get(case_id), evaluation.prediction(case_id)
        if scan is None or not prediction.is_file():
            continue
        entry = {"case_id": case_id}
        for kind, path in (("image", scan.image), ("reference", scan.label), ("prediction", prediction)):
            # Scans are named by number: a case_id may hold characters that a URL may not.
            entry[kind] = f"/scans/{number}/{kind}{_suffix(path)}"
            files[entry[kind]] = path
        table.append(entry)
    files["/cases.json"] = json.dumps({"window_hu": DISPLAY_WINDOW_HU, "cases": table}).encode()
    return files


def _suffix(path: Path) -> str:
    """Return the suffix that a NIfTI file's first bytes ask for, whatever its name says."""
    with open(path, "rb") as stream:
        return ".nii.gz" if stream.read(len(MAGIC)) == MAGIC else ".nii"
