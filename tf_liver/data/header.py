"""The NIfTI header: read with bounds, and checked for what nibabel lets through without a word."""

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from tf_liver.data import DataError

# deflate cannot do better than 1032:1 (zlib's FAQ); a header that promises more is lying.
MAX_DEFLATE_RATIO = 1032
MAX_EXTRA_BYTES = 1 << 20
MAX_VOX_OFFSET = 1 << 26


class Nifti2Header(nib.Nifti2Header):
    """nibabel's, but quaternions may be as far from one as NIfTI-1's float32 leaves them in a converted file."""

    quaternion_threshold = nib.Nifti1Header.quaternion_threshold


def read_header(stream: io.RawIOBase | io.BufferedIOBase, path: Path) -> Any:
    """Read a NIfTI-1 or NIfTI-2 header and its extensions, and leave the stream at the first voxel.

    Returns nibabel's header object, neither repaired nor checked.

    Raises:
        DataError: not a single-file NIfTI, or extensions and voxel offset that contradict each other.
    """
    block = stream.read(348) or b""
    size = block[:4]
    if size in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        kind = nib.Nifti1Header
    elif size in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):
        kind = Nifti2Header
        block += stream.read(540 - 348) or b""
    else:
        raise DataError(f"{path}: not a NIfTI file. Received: first bytes {block[:16]!r}")
    if len(block) < kind.sizeof_hdr:
        raise DataError(f"{path}: the header must have {kind.sizeof_hdr} bytes. Received: {len(block)}")
    # Left to itself nibabel guesses the byte order from dim[0], which may be the very field that is wrong.
    header = kind.from_fileobj(io.BytesIO(block), endianness=">" if size[0] == 0 else "<", check=False)
    magic = bytes(header["magic"].item())[:3]
    if magic not in (b"n+1", b"n+2"):
        raise DataError(f"{path}: must be a single-file NIfTI (magic n+1 or n+2). Received: {magic!r}")
    _skip_extensions(stream, header, path)
    return header


def _skip_extensions(stream: io.RawIOBase | io.BufferedIOBase, header: Any, path: Path) -> None:
    """Move to vox_offset; refuse one that lies in the header or inside an extension."""
    raw_offset = float(header["vox_offset"])
    start = header.sizeof_hdr + 4
    if not start <= raw_offset <= MAX_VOX_OFFSET or raw_offset != int(raw_offset):
        raise DataError(f"{path}: vox_offset must lie in [{start}, {MAX_VOX_OFFSET}]. Received: {raw_offset:g}")
    between = stream.read(int(raw_offset) - header.sizeof_hdr) or b""
    if len(between) < raw_offset - header.sizeof_hdr:
        raise DataError(f"{path}: ends before vox_offset {raw_offset:g}")
    if not between[0]:
        return
    at = 4
    # NIfTI-1 standard: each extension starts with its size, a positive multiple of 16, and they fill the gap.
    while at == 4 or at < len(between):
        field = between[at : at + 4]
        size = int.from_bytes(field, "big" if header.endianness == ">" else "little", signed=True)
        if len(field) == 4 and size == 0:
            break  # padding after the last extension
        if not 8 <= size <= len(between) - at:
            raise DataError(
                f"{path}: vox_offset must not lie inside an extension. "
                f"Received: vox_offset {raw_offset:g}, an extension at {header.sizeof_hdr + at}"
            )
        at += size


def check_header(header: Any, path: Path, file_bytes: int, gzipped: bool) -> None:
    """Check dimensions, type, scaling and affine, and that so many voxels can lie in so large a file.

    Raises:
        DataError: the first rule that is broken.
    """
    _check_shape(header, path)
    code = int(header["datatype"])
    if code not in _READABLE:
        raise DataError(
            f"{path}: voxels must be integers or real floats of at most 64 bits. Received: datatype code {code}"
        )
    promised = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    room = file_bytes * (MAX_DEFLATE_RATIO if gzipped else 1)
    if promised > room:
        raise DataError(
            f"{path}: shorter than its header promises: {promised} bytes of voxels. "
            f"Received: a file of {file_bytes} bytes{' of gzip' if gzipped else ''}"
        )
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or (slope != 0 and not np.isfinite(inter)):
        raise DataError(f"{path}: scl_slope and scl_inter must be finite. Received: {slope:g} and {inter:g}")
    _check_affine(header, path)


_READABLE = {2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280}  # NIfTI-1 codes: uint8 … uint64, float32, float64


def _check_shape(header: Any, path: Path) -> None:
    """dim[0] and the dimensions it counts; a 4-D file whose last axes are 1 is a 3-D one."""
    dim = [int(d) for d in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise DataError(f"{path}: dim[0] must lie in [1, 7]. Received: {dim[0]}")
    shape = dim[1 : dim[0] + 1]
    if min(shape) < 1:
        raise DataError(f"{path}: every dimension must be at least 1. Received: {shape}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise DataError(f"{path}: a scan must have 3 dimensions (width, height, depth). Received: {shape}")
    header.set_data_shape(shape)


def _check_affine(header: Any, path: Path) -> None:
    """The affine that will be used must be finite and invertible."""
    spacing = [float(p) for p in header["pixdim"][1:4]]
    if int(header["sform_code"]) == 0 and not all(np.isfinite(p) and p > 0 for p in spacing):
        raise DataError(f"{path}: pixdim must be positive. Received: {spacing}")
    try:
        affine = header.get_best_affine()
    except (ValueError, HeaderDataError) as error:
        raise DataError(f"{path}: the quaternion of the qform must be one. Received: {error}") from error
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: the affine must be finite. Received: {affine.tolist()}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # The volume of the cell of unit vectors: 1 for orthogonal axes, 0 for axes in one plane.
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise DataError(f"{path}: the affine must be invertible. Received: {affine.tolist()}")
