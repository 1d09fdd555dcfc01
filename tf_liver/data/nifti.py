"""NIfTI files: one volume in canonical orientation, with every header check; write.py is the exact way back.

nibabel parses headers and affines. The stream is read here, because nibabel stops at the last voxel and so never
sees a missing gzip trailer or a wrong checksum, and because it goes through float64.
"""

import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from tf_liver import files
from tf_liver.data import LABELS, DataError, DataWarning, GridWarning
from tf_liver.data.gunzip import MAGIC, GunzipReader
from tf_liver.data.header import (
    MAX_EXTRA_BYTES,
    affine_mm,
    check_header,
    corner_distance_mm,
    grid_doubts,
    read_header,
)

# Grids whose corners lie within SAME_MM are the same; within CLOSE_MM they are, with a warning (rounding of the
# affine by another tool: LiTS spacings are 0.6 mm and more); beyond it they are different grids.
SAME_MM = 1e-3
CLOSE_MM = 0.1

# isal's own error is typed as an instance in its stubs.
STREAM_ERRORS: Any = (EOFError, isal_zlib.IsalError)


@dataclass(frozen=True)
class Volume:
    """A scan in canonical orientation (axes Right, Anterior, Superior).

    voxels: (width, height, depth), int16 where the values allow it, otherwise float32.
    affine: (4, 4), voxel index to mm, of the canonical grid.
    header: the file's own header, which holds the native grid, in its own units.
    doubts: what is doubtful about where the voxels lie, a sentence each.
    """

    voxels: np.ndarray
    affine: np.ndarray
    header: Any
    doubts: tuple[str, ...] = ()

    @property
    def slices(self) -> np.ndarray:
        """The same voxels as axial slices, (depth, height, width), not copied."""
        return self.voxels.transpose(2, 1, 0)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along the three canonical axes."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, from the whole affine: |det| is right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_volume(path: Path) -> Volume:
    """Read a .nii or .nii.gz scan.

    int16 is kept where slope and intercept allow it exactly; everything else becomes float32. Gzip or not is
    told by the first bytes, not by the name. The whole gzip stream is checked, its trailer included.

    Raises:
        DataError: anything wrong with the file; the message names file, rule and value.
        FileNotFoundError: no such file.
    """
    with _open(path) as (stream, header, doubts):
        return _read_rest(stream, header, path, doubts)


def _read_rest(stream: Any, header: Any, path: Path, doubts: tuple[str, ...]) -> Volume:
    raw = _read_voxels(stream, header.get_data_shape(), header.get_data_dtype(), path)
    _read_to_the_end(stream, path)
    return canonical(_as_int16(_scaled(raw, header, path)), header, doubts)


def _as_int16(voxels: np.ndarray) -> np.ndarray:
    return voxels if voxels.dtype == np.float32 else voxels.astype(np.int16, copy=False)


def iterate_slices(path: Path, digest: Any = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (z, axial slice (height, width)) of a scan, each once, read-only.

    Values as `read_volume` gives them. Where the file holds axial slices one after the other and needs no
    rescaling, one slice at a time is decoded; otherwise the whole volume is.

    digest: as of hashlib; it has taken in the whole file, as it lies on disk, when the last slice has been asked for.

    Raises: as `read_volume`; whoever uses the slices must wait for the end, where the checksums are.
    """
    with _open(path, digest) as (stream, header, doubts):
        to_canonical = io_orientation(affine_mm(header))
        if to_canonical[2, 0] == 2 and is_plain_int16(header):
            *plane, depth = header.get_data_shape()
            flips = [slice(None, None, int(way)) for way in to_canonical[:2, 1]]
            swapped = to_canonical[0, 0] == 1
            for k in range(depth):
                voxels = _as_int16(_read_slice(stream, (*plane,), header.get_data_dtype(), path))[tuple(flips)]
                yield (k if to_canonical[2, 1] > 0 else depth - 1 - k), (voxels if swapped else voxels.T)
            _read_to_the_end(stream, path)
            return
        volume = _read_rest(stream, header, path, doubts)
    yield from enumerate(volume.slices)


def is_plain_int16(header: Any) -> bool:
    """Say whether the stored values are HU that fit int16 as they are."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    return (slope == 0 or (slope == 1 and inter == 0)) and header.get_data_dtype() in (np.int16, np.uint8, np.int8)


def read_grid(path: Path) -> Volume:
    """Read and check the header alone: the volume's voxels are zeros that take up no memory.

    Raises: as `read_volume`, for what the header and the file's size can tell.
    """
    with _open(path) as (_, header, doubts):
        return canonical(np.broadcast_to(np.int16(0), header.get_data_shape()), header, doubts)


def canonical(voxels: np.ndarray, header: Any, doubts: tuple[str, ...] = ()) -> Volume:
    """Return voxels on the grid of a header as a volume: turned to Right, Anterior, Superior, not copied."""
    native = affine_mm(header)
    to_canonical = io_orientation(native)
    affine = native @ inv_ornt_aff(to_canonical, voxels.shape)
    return Volume(apply_orientation(voxels, to_canonical), affine, header, doubts)


def read_label(path: Path) -> Volume:
    """Read a label map as uint8.

    Raises:
        DataError: as `read_volume`, or a value that is not one of LABELS.
    """
    with _open(path) as (stream, header, doubts):
        raw = _read_voxels(stream, header.get_data_shape(), header.get_data_dtype(), path)
        _read_to_the_end(stream, path)
    return canonical(as_label(_scaled(raw, header, path), path), header, doubts)


def as_label(values: np.ndarray, path: Path) -> np.ndarray:
    """Return voxels of a label map as uint8, or raise DataError if one is not in LABELS; `path` is for the message."""
    # Integers within the range of the values need no sorting, which takes longer than the gunzip.
    whole = values.dtype != np.float32 and values.min() >= 0 and values.max() < len(LABELS)
    if not whole and (wrong := sorted(set(np.unique(values).tolist()) - set(LABELS))):
        raise DataError(
            f"{path}: label values must be {', '.join(map(str, LABELS))}. "
            f"Received: {', '.join(f'{v:g}' for v in wrong[:8])}"
        )
    return values.astype(np.uint8, copy=False)


def check_same_grid(
    image: Volume, label: Volume, label_path: Path, names: tuple[str, str] = ("label", "image")
) -> None:
    """Raise DataError unless image and label have one shape and one affine (corners within CLOSE_MM).

    names: what to call the file at `label_path`, and the other one.
    """
    both = " and ".join(names)
    if image.voxels.shape != label.voxels.shape:
        raise DataError(
            f"{label_path}: {both} must have one shape. "
            f"Received: {names[0]} {label.voxels.shape}, {names[1]} {image.voxels.shape}"
        )
    apart_mm = corner_distance_mm(image.affine, label.affine, image.voxels.shape)
    if apart_mm > CLOSE_MM:
        raise DataError(
            f"{label_path}: {both} must have one affine (corners within {CLOSE_MM} mm). "
            f"Received: corners {apart_mm:.4g} mm apart"
        )
    if apart_mm > SAME_MM:
        warnings.warn(
            f"{label_path}: the corners of {both} are {apart_mm:.2g} mm apart; taken as one grid",
            DataWarning,
            stacklevel=2,
        )


@contextmanager
def _open(path: Path, digest: Any = None) -> Iterator[tuple[io.RawIOBase | io.BufferedIOBase, Any, tuple[str, ...]]]:
    """Open for reading, through gzip if the first bytes say so.

    Gives the stream at its first voxel, its header, and what is doubtful about its grid.

    digest: takes in the whole file, once what is in the `with` has come to its end.
    """
    if kind := files.irregular(path):
        raise DataError(f"{path}: a scan must be a file. Received: {kind}")
    with open(path, "rb") as file:
        magic = file.read(2)
    if not magic:
        raise DataError(f"{path}: the file is empty")
    gzipped = magic == MAGIC
    raw = files.HashingFile(path, digest)
    with GunzipReader(raw) if gzipped else io.BufferedReader(raw) as stream:
        try:
            header = read_header(stream, path)
            check_header(header, path, os.path.getsize(path), gzipped)
            odd = tuple(grid_doubts(header))
            for text in odd:
                warnings.warn(f"{path}: {text}", GridWarning, stacklevel=5)
            yield stream, header, odd
        except STREAM_ERRORS as error:
            raise DataError(f"{path}: damaged gzip stream: {error}") from error
        if digest:
            raw.read_to_the_end()


def _read_slice(stream: Any, shape: tuple[int, ...], dtype: np.dtype, path: Path) -> np.ndarray:
    """Return the next voxels as stored, read-only: in the memory into which they were decoded."""
    size = math.prod(shape) * dtype.itemsize
    if len(data := stream.read(size)) < size:
        raise _too_short(path, size, len(data))
    return np.frombuffer(data, dtype).reshape(shape, order="F")


def _too_short(path: Path, promised: int, got: int) -> DataError:
    return DataError(f"{path}: shorter than its header promises: {promised} bytes of voxels. Received: {got}")


def _read_voxels(stream: Any, shape: tuple[int, ...], dtype: np.dtype, path: Path) -> np.ndarray:
    """Return the next voxels as stored, in the file's shape and type, read once into one buffer."""
    voxels = np.empty(math.prod(shape), dtype)
    buffer = memoryview(voxels.view(np.uint8).data)
    got = 0
    while got < len(buffer):
        read = stream.readinto(buffer[got:])
        if not read:
            raise _too_short(path, len(buffer), got)
        got += read
    return voxels.reshape(shape, order="F")


def _read_to_the_end(stream: Any, path: Path) -> None:
    """Read past the last voxel, so that a gzip checks its sums; a little more than promised is only odd."""
    extra = 0
    while extra <= MAX_EXTRA_BYTES and (chunk := stream.read(65536)):
        extra += len(chunk)
    if extra:
        more = "over " if extra > MAX_EXTRA_BYTES else ""
        warnings.warn(f"{path}: {more}{extra} bytes after the last voxel; ignored", DataWarning, stacklevel=3)
    if getattr(stream, "garbage", 0):
        warnings.warn(f"{path}: garbage after the gzip stream; ignored", DataWarning, stacklevel=3)


def _scaled(raw: np.ndarray, header: Any, path: Path) -> np.ndarray:
    """Apply slope and intercept once; whole numbers of 16 bits or less where that is exact, otherwise float32."""
    if is_plain_int16(header):
        return raw.astype(raw.dtype.newbyteorder("="), copy=False)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0:  # the NIfTI-1 standard: a slope of 0 means unscaled
        slope, inter = 1.0, 0.0
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise DataError(f"{path}: voxels must be finite. Received: {np.count_nonzero(~np.isfinite(raw))} NaN or inf")
    unscaled, exact = slope == 1 and inter == 0, False
    if raw.dtype.kind in "iu" and slope.is_integer() and inter.is_integer():
        ends = [int(raw.min()) * slope + inter, int(raw.max()) * slope + inter]
        exact = min(ends) >= -32768 and max(ends) <= 32767
    if exact and unscaled:
        return raw.astype(np.int16, copy=False)
    # Slice by slice, so that no second copy of the volume is ever held in float64.
    out = np.empty(raw.shape, np.int16 if exact else np.float32, order="F")
    with np.errstate(over="ignore"):
        for k in range(raw.shape[2]):
            out[..., k] = raw[..., k] if unscaled else raw[..., k] * slope + inter
    if not exact and not np.isfinite(out).all():
        raise DataError(f"{path}: scaled voxels must fit float32. Received: slope {slope:g}, intercept {inter:g}")
    return out
