"""The viewer's server: one page, niivue, and the scans and masks of one evaluation, on this machine alone."""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

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
    """Serves `files`, URL path → file or bytes, and nothing else: no path of a request ever reaches the disk.

    All paths lie under a token that nobody can guess: other users of the machine reach its ports, too.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, Path | bytes], port: int) -> None:
        self.files, self.token = files, secrets.token_urlsafe(16)
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def content(self, path: str) -> Path | bytes | None:
        """Return what a request's path stands for; None without the token, or where there is nothing."""
        token, slash, name = path.removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(errors="replace"), self.token.encode())
        return self.files.get(name) if known and slash else None


class _Handler(BaseHTTPRequestHandler):
    server: Viewer

    def do_GET(self) -> None:
        """Answer with a file of the table, or 404."""
        # A page elsewhere whose name was made to point here (DNS rebinding) still sends its own name.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        path = self.path.split("?")[0]
        content = self.server.content(path)
        if isinstance(content, bytes):
            self._begin(path, len(content))
            self.wfile.write(content)
            return None
        try:
            stream = _open(content) if content else None
        except OSError:  # it has gone, or became a link
            stream = None
        if stream is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        with stream:
            self._begin(path, os.fstat(stream.fileno()).st_size)
            return shutil.copyfileobj(stream, self.wfile)

    def _begin(self, path: str, size: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES.get(Path(path).suffix or ".html", "application/octet-stream"))
        self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal quiet."""


def _open(path: Path) -> BinaryIO:
    """Open a regular file that is no link, without waiting for a pipe."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path}: not a file")
    return stream


def viewer_files(evaluation: Evaluation, cases: Sequence[Case]) -> dict[str, Path | bytes]:
    """Return what a viewer of an evaluation serves: URL path, after the token, → file or bytes.

    A label map that is a link out of the evaluation's folder is left out with its case. Scans may be links: many a data
    folder is made of them.
    """
    files: dict[str, Path | bytes] = {
        "": PAGE / "viewer.html",
        "viewer.js": PAGE / "viewer.js",
        "niivue.umd.js": PAGE / "niivue.umd.js",
    }
    folder = evaluation.folder.resolve()
    by_id, table = {case.case_id: case for case in cases}, []
    for number, case_id in enumerate(dict.fromkeys(row["case_id"] for row in evaluation.rows)):
        scan, prediction = by_id.get(case_id), evaluation.prediction(case_id)
        inside = prediction.resolve().is_relative_to(folder)
        if scan is None or not inside or not prediction.is_file():
            continue
        entry = {"case_id": case_id}
        for kind, path in (("image", scan.image), ("reference", scan.label), ("prediction", prediction)):
            # Scans are named by number: a case_id may hold characters that a URL may not.
            entry[kind] = f"scans/{number}/{kind}{_suffix(path)}"
            files[entry[kind]] = path.resolve()
        table.append(entry)
    files["cases.json"] = json.dumps({"window_hu": DISPLAY_WINDOW_HU, "cases": table}).encode()
    return files


def _suffix(path: Path) -> str:
    """Return the suffix that a NIfTI file's first bytes ask for, whatever its name says."""
    with open(path, "rb") as stream:
        return ".nii.gz" if stream.read(len(MAGIC)) == MAGIC else ".nii"
