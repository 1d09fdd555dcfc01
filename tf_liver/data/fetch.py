"""Fetch a large file over HTTP so that nothing is fetched twice.

pooch was looked at: its HTTPDownloader knows no Range, so that a 29 GB download that drops starts over, and its Untar
unpacks with no filter on Python 3.11. The standard library has all that is needed.
"""

import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tf_liver import __version__
from tf_liver.data import DataError
from tf_liver.data.download import Listener, check_space, human
from tf_liver.files import fsync, write_atomic

URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task03_Liver.tar"
MD5, SIZE = "a90ec6c4aa7f6a3d087205e23d4e6397", 28_925_891_584
CHUNK = 1 << 20
HEADWAY = 1 << 20  # bytes that make a dropped connection a new one instead of one more failure in a row
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0


@dataclass(frozen=True)
class Remote:
    """A file on a server; `size_bytes` is known for the archive that MD5 belongs to."""

    url: str = URL
    md5: str = MD5
    timeout_s: float = 60.0
    retries: int = 8

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/\s]+/\S*$", self.url):
            raise ValueError(f"url: must begin with http:// or https:// and name a file. Received: {self.url}")
        if not re.fullmatch("[0-9a-f]{32}", self.md5):
            raise ValueError(f"md5: must be 32 digits of 0-9, a-f. Received: {self.md5}")
        if self.timeout_s <= 0 or self.retries < 0:
            raise ValueError(f"timeout and retries must be positive. Received: {self.timeout_s}, {self.retries}")

    @property
    def size_bytes(self) -> int | None:
        """What the file must weigh; None when only the server knows."""
        return SIZE if self.md5 == MD5 else None


class _Dropped(Exception):
    """The server failed in a way that may pass. Not an OSError, so that a full disk is never taken for it."""


class _Part:
    """A download under way: the bytes so far, and beside them which file of the server they belong to."""

    def __init__(self, archive: Path) -> None:
        self.path = part_of(archive)
        self._memory = self.path.with_name(f"{self.path.name}.json")
        self.etag, self.total, self.have = "", 0, 0
        try:
            memory = json.loads(self._memory.read_text())
            self.etag, self.total = str(memory["etag"]), int(memory["total"])
            self.have = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            pass  # nothing to go on from
        # Without an ETag nobody can say whether the rest would fit the bytes that are here.
        self.resumable = bool(self.etag) and 0 < self.have <= self.total

    def start_over(self, etag: str, total: int) -> None:
        """Empty the file first and remember second: killed in between, no bytes pass for another file's."""
        self.path.write_bytes(b"")
        write_atomic(self._memory, json.dumps({"etag": etag, "total": total}))
        self.etag, self.total, self.have, self.resumable = etag, total, 0, bool(etag)

    @property
    def fate(self) -> str:
        """What an error says about the bytes so far."""
        if not self.have:
            return ""
        if not self.etag:
            return f"; {human(self.have)} came, but without an ETag the next call starts over"
        return f"; {human(self.have)} are kept in {self.path}, the next call goes on from there"

    def finish(self, archive: Path) -> None:
        """Give the complete file its name."""
        fsync(self.path)
        os.replace(self.path, archive)
        self._memory.unlink(missing_ok=True)


def part_of(archive: Path) -> Path:
    """Return where an archive lies while it is fetched."""
    return archive.with_name(f"{archive.name}.part")


def fetch(remote: Remote, archive: Path, listener: Listener) -> None:
    """Download to `archive`, going on from its .part file; the checksum is left to `check_md5`.

    Raises:
        OSError: the disk is too small or full, the server refuses, or it fails too often in a row; what came is kept.
        DataError: the server offers a file of another size.
    """
    part = _Part(archive)
    total = remote.size_bytes or (part.total if part.resumable else 0)
    if total:
        listener.say(check_space(archive.parent, max(total - part.have, 0), total))
    furthest, failures = part.have, 0
    while not (part.resumable and part.have == part.total):
        try:
            _attempt(remote, part, listener)
        except _Dropped as lost:
            if part.have >= furthest + HEADWAY:
                furthest, failures = part.have, 0
            if failures == remote.retries:
                raise ConnectionError(f"{remote.url}: {lost}{part.fate}") from lost
            wait_s = min(FIRST_WAIT_S * 2**failures, LONGEST_WAIT_S)
            failures += 1
            listener.say(f"{lost} after {human(part.have)}; retry {failures} of {remote.retries} in {wait_s:.0f} s")
            time.sleep(wait_s)
        else:
            break
    part.finish(archive)


def _attempt(remote: Remote, part: _Part, listener: Listener) -> None:
    """Ask once, for the rest where there is a beginning, and take what comes."""
    with _open(remote, part) as response:
        etag = response.headers.get("ETag", "")
        if response.status == 206:
            given = response.headers.get("Content-Range", "")
            fits = re.fullmatch(rf"bytes {part.have}-\d+/{part.total}", given) and etag == part.etag
            if not (fits and part.resumable):
                part.resumable = False  # asked again without Range, the server gives the whole file
                raise _Dropped(f"the server sent another part than asked for (Content-Range {given}, ETag {etag})")
        elif response.status == 200:
            total = _whole_size(remote, response)
            if part.have:
                listener.say(f"starting over: {_why(part, etag)}")
            if remote.size_bytes is None:
                listener.say(check_space(part.path.parent, max(total - part.have, 0), total))
            # If-Range takes strong ETags only (RFC 9110, 13.1.5).
            part.start_over("" if etag.startswith("W/") else etag, total)
        else:
            raise ConnectionError(f"{remote.url}: HTTP status must be 200 or 206. Received: {response.status}")
        _copy(response, part, listener)


def _why(part: _Part, etag: str) -> str:
    """Return why the server's whole file replaces the bytes that are here."""
    if not part.etag:
        return "without an ETag nobody can say whether the rest would fit"
    if etag != part.etag:
        return f"the file on the server has changed (ETag {part.etag} before, {etag or 'none'} now)"
    return "the server ignores Range" if part.resumable else "the server cannot send the rest"


def _open(remote: Remote, part: _Part) -> http.client.HTTPResponse:
    """Return the response; what may pass is _Dropped, the rest is final."""
    request = urllib.request.Request(remote.url, headers={"User-Agent": f"tf_liver/{__version__}"})
    if part.resumable:
        request.add_header("Range", f"bytes={part.have}-")
        request.add_header("If-Range", part.etag)
    try:
        return urllib.request.urlopen(request, timeout=remote.timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        part.resumable = part.resumable and error.code != 416
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _Dropped(f"HTTP {error.code} {error.reason}") from error
        raise ConnectionError(f"{remote.url}: HTTP {error.code} {error.reason}") from error
    except http.client.InvalidURL as error:
        raise ValueError(f"url: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ConnectionError(f"{remote.url}: {reason}") from error
        raise _Dropped(f"no connection ({reason})") from error


def _whole_size(remote: Remote, response: http.client.HTTPResponse) -> int:
    """Return the size of the file that is offered."""
    given = response.headers.get("Content-Length", "")
    if not given.isdecimal():
        raise DataError(f"{remote.url}: the server must say the size of the file (Content-Length). Received: {given!r}")
    if remote.size_bytes not in (None, int(given)):
        raise DataError(f"{remote.url}: must be {remote.size_bytes:,} bytes. Received: {int(given):,}")
    return int(given)


def _copy(response: http.client.HTTPResponse, part: _Part, listener: Listener) -> None:
    with part.path.open("ab", buffering=0) as file:
        while part.have < part.total:
            try:
                # read1, for read would throw away what it has when the connection drops.
                data = response.read1(min(CHUNK, part.total - part.have))
            except (OSError, http.client.HTTPException) as error:
                raise _Dropped(f"connection lost ({error})") from error
            if not data:
                raise _Dropped("connection closed")
            while data:
                try:
                    written = file.write(data)
                except OSError as error:
                    raise OSError(f"{part.path}: {error.strerror}{part.fate}") from error
                part.have += written
                data = data[written:]
            listener.progress("downloading", part.have, part.total)
