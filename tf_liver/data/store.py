"""Prepared slices on disk: every slice of every case as exact HU, one read away.

A store is a folder with three files a case and a manifest:

    <case>.images.npy   (depth, height, width), int16 HU where the scan allows it, else float32: all slices
    <case>.labels.npy   (slices with foreground, height, width) uint8: label values 0, 1, 2
    <case>.json         sources with their hashes, geometry, which slices hold liver and tumour, a CRC-32 for every
                        slice of both, and its own hash
    MANIFEST            JSON: format version, settings, and the hash of each case's record; written last, so that its
                        absence says that work was cut off

Nothing of the training is in it: augmentation, normalisation, batch size, task and the number of liver-free
slices can change without building it again. The arrays are plain .npy and can be memory-mapped by anybody; our
reader reads single slices instead, so that memory does not grow with the data and a file that shrank is an error
rather than a SIGBUS.
"""

import hashlib
import json
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from isal import isal_zlib

from tf_liver import files
from tf_liver.data import DataError
from tf_liver.data.cases import Case
from tf_liver.data.index import SliceIndex
from tf_liver.data.slices import neighbourhood
from tf_liver.data.writer import BLOCK_BYTES, npy_header

FORMAT = 2
MANIFEST = "MANIFEST"  # without a suffix: no case can have a file of this name


class Manifest(TypedDict):
    """What the manifest holds, as far as it is read again. cases: case_id → seal of its record."""

    format: int
    cases: dict[str, str]


def images_path(folder: Path, case_id: str) -> Path:
    """Return where a case's slices lie."""
    return folder / f"{case_id}.images.npy"


def labels_path(folder: Path, case_id: str) -> Path:
    """Return where the label slices of a case lie."""
    return folder / f"{case_id}.labels.npy"


def record_path(folder: Path, case_id: str) -> Path:
    """Return where what is known of a case lies."""
    return folder / f"{case_id}.json"


def slice_crc(values: np.ndarray) -> int:
    """Return the CRC-32 of one contiguous slice."""
    return int(isal_zlib.crc32(values.data.cast("B")))


def _seal(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record's content; times are left out, for they change without the scans."""
    sources = {kind: {k: v for k, v in facts.items() if k != "mtime_ns"} for kind, facts in record["sources"].items()}
    content = {**record, "sources": sources, "seal": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write a case's record, sealed by the hash of its content; forcing it to disk is left to the caller."""
    text = json.dumps({**record, "seal": _seal(record)}) + "\n"
    files.write_atomic(record_path(folder, record["case_id"]), text, sync=False)


def read_record(folder: Path, case_id: str) -> dict[str, Any] | None:
    """Return a case's record; None if there is none of this format, or it is not as it was written."""
    try:
        record = files.read_json(record_path(folder, case_id), dict[str, Any])
        whole = record["format"] == FORMAT and record["case_id"] == case_id and record["seal"] == _seal(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if whole else None


def seal_of(folder: Path, case_id: str) -> str | None:
    """Return the seal of a case's record; None if it has no good one."""
    record = read_record(folder, case_id)
    return record["seal"] if record else None


def read_manifest(folder: Path) -> dict[str, str]:
    """Return case_id → seal of the finished cases; empty without a manifest of this format."""
    try:
        manifest = files.read_json(folder / MANIFEST, Manifest)
        return manifest["cases"] if manifest["format"] == FORMAT else {}
    except (OSError, ValueError):
        return {}


def check_array(path: Path, dtype: str, shape: tuple[int, ...]) -> str:
    """Say what is wrong with header or size of an array file; "" if it is as `SliceWriter` leaves it.

    Its header is compared, not read: NumPy evaluates it, and raises what it likes on a damaged one.
    """
    header = npy_header(np.dtype(dtype), shape)
    size = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if what := files.irregular(path):
            return f"must be a file, not {what}"
        with open(path, "rb") as stream:
            same = stream.read(len(header)) == header
        found = path.stat().st_size
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not same:
        return f"must begin with the .npy header of {dtype} of shape {shape}"
    return "" if found == size else f"must have {size} bytes, not {found}"


class _Slices:
    """The slices of one .npy file of a case, read singly and checked against their CRC when first read."""

    def __init__(self, path: Path, record: dict[str, Any], crcs: Sequence[int], dtype: str) -> None:
        self._path, self._record, self._crcs = path, record, crcs
        shape = (len(crcs), *record["shape"][1:])
        if wrong := check_array(path, dtype, shape):
            raise self._damaged(wrong)
        self._inode = path.stat().st_ino
        self.shape, self.dtype, self._offset = shape[1:], np.dtype(dtype), BLOCK_BYTES
        self._checked = np.zeros(len(crcs), bool)

    def read(self, numbers: Sequence[int], buffer: threading.local) -> np.ndarray:
        """Return slices (n, height, width) in the thread's buffer, kept while shape and type stay the same."""
        shape, values = (len(numbers), *self.shape), getattr(buffer, "values", None)
        if values is None or values.shape != shape or values.dtype != self.dtype:
            values = buffer.values = np.empty(shape, self.dtype)
        for z, one in zip(numbers, values, strict=True):
            self._read(z, one)
        return values

    def _read(self, z: int, values: np.ndarray) -> None:
        # Opened anew each time: a handle kept for each file would run into the system's limit with many cases.
        handle = os.open(self._path, os.O_RDONLY)
        try:
            got = os.preadv(handle, [values.data], self._offset + z * values.nbytes)
            same_file = os.fstat(handle).st_ino == self._inode
        finally:
            os.close(handle)
        if not same_file or got < values.nbytes or not (self._checked[z] or slice_crc(values) == self._crcs[z]):
            raise self._damaged(f"slice {z} is damaged (its CRC-32 differs)")
        self._checked[z] = True

    def _damaged(self, what: str) -> DataError:
        """Return the error; without the manifest the next `prepare` looks at every slice and mends this one."""
        folder = self._path.parent
        if seal_of(folder, self._record["case_id"]) != self._record["seal"]:
            return DataError(f"{self._path}: was built anew, of other scans, while it was being read; start again")
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
        except OSError as error:
            return DataError(f"{self._path}: {what}, and cannot be mended ({error.strerror}); build another --prepared")
        return DataError(f"{self._path}: {what}; `prepare` builds it again")


class SliceStore:
    """Reads single slices of a prepared store; safe to use from many threads.

    index: which slices there are, known without reading any.

    Raises:
        DataError: a case that is not in the store, or not whole.
    """

    def __init__(self, folder: Path, cases: Sequence[Case]) -> None:
        self._folder = folder
        self._cases = tuple(cases)
        self._records = [self._record(case) for case in cases]
        self.index = SliceIndex(
            self._cases,
            tuple(r["shape"][0] for r in self._records),
            tuple(np.array(sorted(r["positives"]), np.int64) for r in self._records),
            tuple(np.array(sorted(r["tumours"]), np.int64) for r in self._records),
        )
        self._rank = [{z: n for n, z in enumerate(r["positives"])} for r in self._records]
        self._open: dict[Path, _Slices] = {}
        self._lock = threading.Lock()
        self._image, self._label = threading.local(), threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return SliceStore, (self._folder, self._cases)

    def _record(self, case: Case) -> dict[str, Any]:
        record = read_record(self._folder, case.case_id)
        if record is None:
            raise DataError(f"{self._folder}: case {case.case_id} is not prepared; run `prepare` first")
        return record

    @property
    def sources(self) -> dict[str, str]:
        """Hash of each image's file → its case_id."""
        return {record["sources"]["image"]["xxh3_128"]: record["case_id"] for record in self._records}

    def read(self, case: int, z: int, neighbours: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return a slice in HU and its label map, (height, width) uint8, in buffers of the calling thread.

        The slice comes with its neighbours on each side, (2n + 1, height, width), as `neighbourhood` numbers them.
        They are overwritten by the thread's next read: fresh memory would cost more than reading does.

        Raises:
            DataError: the slice on disk is damaged.
        """
        record, case_id = self._records[case], self._cases[case].case_id
        images = self._slices(images_path(self._folder, case_id), record, record["image_crc32"], record["dtype"])
        image = images.read(neighbourhood(z, z + 1, neighbours, record["shape"][0]).tolist(), self._image)
        rank = self._rank[case].get(z)
        if rank is None:
            return image, np.zeros(images.shape, np.uint8)
        labels = self._slices(labels_path(self._folder, case_id), record, record["label_crc32"], "uint8")
        return image, labels.read([rank], self._label)[0]

    def _slices(self, path: Path, record: dict[str, Any], crcs: Sequence[int], dtype: str) -> _Slices:
        with self._lock:
            if path not in self._open:
                self._open[path] = _Slices(path, record, crcs, dtype)
            return self._open[path]
