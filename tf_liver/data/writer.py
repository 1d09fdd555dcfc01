"""Writing a large array slice by slice, past the page cache."""

import errno
import fcntl
import math
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

BLOCK_BYTES = 4096  # direct writes begin and end on such blocks, whatever the disk
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux only


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy file, numpy.lib.format version 1.0, that fills a block."""
    header = repr({"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))})
    length = BLOCK_BYTES - 10  # after magic, version and this length
    return b"\x93NUMPY\1\0" + length.to_bytes(2, "little") + f"{header:<{length - 1}}\n".encode()


class SliceWriter:
    """Writes the slices of one .npy array in whatever order they come, each while the next is decoded.

    They go to disk directly where they are whole blocks and the file system can: on a virtual machine fresh memory
    for the page cache costs more than decoding, and a store larger than memory would only push other files out.

    Raises on writing and on leaving:
        OSError: the disk is full, or fails.
    """

    def __init__(self, path: Path, plane: tuple[int, ...]) -> None:
        self.dtype = np.dtype(np.uint8)  # of the first slice, when there is one
        self.depth = 0  # the slices written
        self._path, self._plane = path, plane
        self._buffers: list[np.ndarray] = []
        self._pending: Future[None] | None = None

    def __enter__(self) -> "SliceWriter":
        self._handle = os.open(self._path, os.O_WRONLY)
        self._thread = ThreadPoolExecutor(1)
        return self

    def write(self, z: int, values: np.ndarray) -> np.ndarray:
        """Write a slice, of the type of the first; return it as it goes to disk, until the next but one is written."""
        if not self._buffers:
            self._start(values.dtype)
        self._buffers.reverse()  # one is filled while the other is written
        buffer = self._buffers[0]
        np.copyto(buffer, values, casting="no")
        self._wait()
        self._pending = self._thread.submit(self._write, buffer.data.cast("B"), BLOCK_BYTES + z * buffer.nbytes)
        self.depth += 1
        return buffer

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
                self._finish()
        finally:
            self._thread.shutdown()
            os.close(self._handle)

    def _start(self, dtype: np.dtype) -> None:
        """Make the buffers; they lie on pages, as direct writes ask for."""
        self.dtype = dtype
        size = math.prod(self._plane) * dtype.itemsize
        self._buffers = [np.frombuffer(mmap.mmap(-1, size), dtype).reshape(self._plane) for _ in range(2)]
        if size % BLOCK_BYTES == 0:
            self._set_direct(_DIRECT)

    def _finish(self) -> None:
        """Write the header, filling a block: numpy.lib.format, version 1.0."""
        self._set_direct(0)
        self._write(memoryview(npy_header(self.dtype, (self.depth, *self._plane))), 0)

    def _set_direct(self, flag: int) -> bool:
        """Switch direct writing on or off; say whether that changed something."""
        flags = fcntl.fcntl(self._handle, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._handle, fcntl.F_SETFL, flags & ~_DIRECT | flag)
        except OSError as error:
            if error.errno != errno.EINVAL:  # this file system cannot
                raise
        return flags != fcntl.fcntl(self._handle, fcntl.F_GETFL)

    def _write(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self._handle, view[done:], offset + done)
            except OSError as error:
                # A part of a block is left, as at a limit of the file's size: the ordinary way tells what is wrong.
                if error.errno != errno.EINVAL or not self._set_direct(0):
                    raise

    def _wait(self) -> None:
        if self._pending:
            self._pending.result()
