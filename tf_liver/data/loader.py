"""Rows of a batch become arrays: in this process, or in several that hand them over in shared memory.

The work is many short calls of NumPy and OpenCV. Threads spend nearly half their time handing Python's lock to
each other (benchmarks/README.md); processes do not.
"""

import contextlib
import math
import multiprocessing
import queue
import signal
import warnings
import weakref
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tf_liver.data import DataError
from tf_liver.data.augment import WarpAugmenter
from tf_liver.data.store import SliceStore

# TensorFlow takes over arrays that begin at a multiple of this without a copy.
ALIGNMENT = 64
# Batches in tf.data's prefetch and in the training step; slots hold them until they are used.
SPARE_SLOTS = 8

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SliceLoader:
    """Loads batches in the calling thread."""

    store: SliceStore
    augmenter: WarpAugmenter

    def __call__(self, rows: np.ndarray, out: Batch | None = None) -> Batch:
        """Return images (B, S, S, 2n + 1) float32 and masks (B, S, S, 1) uint8 of (case, slice, seed) rows."""
        neighbours = self.augmenter.neighbours
        samples = ((*self.store.read(int(case), int(z), neighbours), int(seed)) for case, z, seed in rows)
        return self.augmenter.batch(samples, len(rows), out)


class LoaderProcesses:
    """Loads batches of a fixed slice size in other processes; call it from as many threads as there are processes.

    Batches lie in slots of shared memory and are handed on without a copy; a slot is free again when nobody holds
    its arrays any more. The processes end with `close`, and when this process ends in any way: the pipe that they
    read from breaks.

    Raises, when called:
        DataError: what a process raised.
        MemoryError: a process was killed.
    """

    def __init__(self, loader: SliceLoader, workers: int, batch_size: int, image_size: int) -> None:
        # A fork of this process would inherit TensorFlow's locks without its threads; a fork server has neither,
        # and its children share the pages of the modules that it has loaded.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._shape = (batch_size, image_size, image_size, 2 * loader.augmenter.neighbours + 1)
        self._workers = workers
        self._slots = [context.RawArray("B", _slot_bytes(self._shape)) for _ in range(2 * workers + SPARE_SLOTS)]
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._connections = []
        for slot in range(len(self._slots)):
            self._free.put(slot)
        for _ in range(workers):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(loader, theirs, self._slots, self._shape), daemon=True).start()
            theirs.close()
            self._connections.append(ours)
            self._idle.put(ours)

    def __call__(self, rows: np.ndarray) -> Batch:
        """Return a batch as `SliceLoader` does."""
        connection, slot = self._idle.get(), self._free.get()
        error: str | None = "gone"
        try:
            connection.send((slot, rows))
            error = connection.recv()
        except (EOFError, OSError) as gone:
            raise MemoryError("a loading process was killed, most likely for lack of memory; lower --workers") from gone
        finally:
            self._idle.put(connection)  # a broken one too: whoever takes it next must not wait for ever
            if error:
                self._free.put(slot)
        if error:
            raise DataError(error)
        memory = np.frombuffer(self._slots[slot], np.uint8)
        images, masks = _views(memory, self._shape, len(rows))
        if self._free.qsize() < self._workers:  # somebody keeps batches: leave enough slots to work in
            images, masks = images.copy(), masks.copy()
        weakref.finalize(memory, self._free.put, slot)
        return images, masks

    def close(self) -> None:
        """End the processes; a call after that raises."""
        for connection in self._connections:
            connection.close()


def _slot_bytes(shape: tuple[int, ...]) -> int:
    """Return the size of a slot for images of this shape and masks of one channel."""
    return ALIGNMENT + math.prod(shape) * np.dtype(np.float32).itemsize + math.prod(shape[:3])


def _views(memory: np.ndarray, shape: tuple[int, ...], number: int) -> Batch:
    """Return images and masks of a batch of `number` in a slot; they keep `memory` alive."""
    begin = -memory.ctypes.data % ALIGNMENT
    cut = begin + math.prod(shape) * np.dtype(np.float32).itemsize
    images = memory[begin:cut].view(np.float32).reshape(shape)
    masks = memory[cut : cut + math.prod(shape[:3])].reshape(*shape[:3], 1)
    return images[:number], masks[:number]


def _serve(loader: SliceLoader, connection: Connection, slots: list[Any], shape: tuple[int, ...]) -> None:
    """Load what is asked for until the pipe breaks."""
    warnings.simplefilter("ignore")  # the parent has read the same records, and has warned
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; then the pipe breaks
    with contextlib.suppress(EOFError, OSError):
        while True:
            slot, rows = connection.recv()
            try:
                loader(rows, _views(np.frombuffer(slots[slot], np.uint8), shape, len(rows)))
            except Exception as error:
                known = isinstance(error, DataError | OSError)
                connection.send(str(error) if known else f"{type(error).__name__}: {error}")
            else:
                connection.send(None)
