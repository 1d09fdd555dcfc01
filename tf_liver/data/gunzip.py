"""A gzip stream that says all it knows: checksums verified, members joined, what lies behind it reported.

Python's own reader, and isal's, raise on garbage behind the last member before they hand out the good bytes in
their buffer, and so cannot tell an odd file from a damaged one.
"""

import io
from typing import Any

from isal import igzip_lib

CHUNK_BYTES = 1 << 18
MAGIC = b"\x1f\x8b"


class GunzipReader(io.RawIOBase):
    """Reads the decompressed bytes of an unbuffered .gz file, which it closes; about twice as fast as zlib.

    garbage: bytes seen behind the last member that are no gzip (zero padding is none).

    Raises on reading:
        EOFError: the stream ends before its trailer.
        isal.igzip_lib.IsalError: damaged data, a wrong checksum or a wrong length.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        super().__init__()
        self.garbage = 0
        self._file = file
        self._chunk = memoryview(bytearray(CHUNK_BYTES))
        self._member = _new_member()
        self._ahead = b""  # read from the file, and not yet given to the member

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; less is written only at the end of the stream."""
        view = memoryview(buffer).cast("B")
        got = 0
        # In pieces: the member would grow its answer to a whole volume, in fresh memory, and copy it as it grows.
        while got < len(view) and (data := self._some(min(len(view) - got, CHUNK_BYTES))):
            view[got : got + len(data)] = data
            got += len(data)
        return got

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, fewer only at the end of the stream; as a rule they are not copied."""
        if size < 0:
            return self.readall()
        data = self._some(size)
        while len(data) < size and (more := self._some(size - len(data))):
            data += more
        return data

    def _some(self, size: int) -> bytes:
        """Return at least one byte and at most `size`; none at the end of the stream."""
        data = b""
        while not data and size and (not self._member.eof or self._next_member()):
            raw: bytes | memoryview = b""
            hungry = self._member.needs_input
            if hungry:
                raw, self._ahead = self._ahead or self._fill(), b""
            data = self._member.decompress(raw, size)
            if hungry and not raw and not data and not self._member.eof:
                raise EOFError("the stream ends before its trailer")
        return data

    def _fill(self) -> memoryview:
        return self._chunk[: self._file.readinto(self._chunk)]

    def _next_member(self) -> bool:
        """Start on the next gzip member, if there is one."""
        rest = self._member.unused_data.lstrip(b"\0")
        while len(rest) < len(MAGIC) and (more := self._fill()):
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(MAGIC):
            self.garbage = len(rest)
            return False
        self._member = _new_member()
        self._ahead = rest
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _new_member() -> Any:
    return igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
