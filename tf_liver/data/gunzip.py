"""A gzip stream that says all it knows: checksums verified, members joined, what lies behind it reported.

Python's own reader, and isal's, raise on garbage behind the last member before they hand out the good bytes in
their buffer, and so cannot tell an odd file from a damaged one.
"""

import io
from pathlib import Path
from typing import Any

from isal import isal_zlib

CHUNK_BYTES = 1 << 18
GZIP_FORMAT = 31  # zlib's wbits: a gzip header and trailer are expected, and checked
MAGIC = b"\x1f\x8b"


class GunzipReader(io.RawIOBase):
    """Reads the decompressed bytes of a .gz file, about twice as fast as zlib.

    garbage: bytes seen behind the last member that are no gzip (zero padding is none).

    Raises on reading:
        EOFError: the stream ends before its trailer.
        isal.isal_zlib.IsalError: damaged data, a wrong checksum or a wrong length.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.garbage = 0
        self._file = open(path, "rb")  # noqa: SIM115  closed by close()
        self._member = isal_zlib.decompressobj(GZIP_FORMAT)
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; less is written only at the end of the stream."""
        view = memoryview(buffer).cast("B")
        got = 0
        while got < len(view) and (not self._member.eof or self._next_member()):
            raw = self._pending or self._file.read(CHUNK_BYTES)
            data = self._member.decompress(raw, len(view) - got)
            self._pending = self._member.unconsumed_tail
            view[got : got + len(data)] = data
            got += len(data)
            if not raw and not data and not self._member.eof:
                raise EOFError("the stream ends before its trailer")
        return got

    def _next_member(self) -> bool:
        """Start on the next gzip member, if there is one."""
        rest = self._member.unused_data.lstrip(b"\0")
        while len(rest) < len(MAGIC) and (more := self._file.read(CHUNK_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(MAGIC):
            self.garbage = len(rest)
            return False
        self._member = isal_zlib.decompressobj(GZIP_FORMAT)
        self._pending = rest
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
