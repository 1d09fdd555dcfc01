"""NIfTI files out: canonical voxels written on the very grid that their scan was read from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from tf_liver.data.header import affine_mm
from tf_liver.files import replacing

# isal's levels are 0 to 3; 1 writes label maps nearly as small as zlib's 6, in a tenth of its time.
COMPRESSION = 1
GZIP_FORMAT = 31  # zlib's wbits: with gzip's header and trailer
PROBABILITY_ONE = 65535  # the stored value of a probability of 1


def to_native(voxels: np.ndarray, header: Any) -> np.ndarray:
    """Return canonical (width, height, depth) voxels in the axis order and direction of the file."""
    native = io_orientation(affine_mm(header))
    return apply_orientation(voxels, ornt_transform(axcodes2ornt("RAS"), native))


def write_label_map(path: Path, voxels: np.ndarray, header: Any) -> None:
    """Write a label map as uint8 on the grid of `header`: its affine, qform, sform, codes and units are kept.

    voxels: canonical (width, height, depth). The file appears whole or not at all.
    """
    _write(path, voxels, header, np.dtype(np.uint8), slope=1)


def write_probability_map(path: Path, voxels: np.ndarray, header: Any) -> None:
    """Write probabilities as uint16 with a slope of 1/PROBABILITY_ONE, on the grid of `header`, as `write_label_map`.

    voxels: canonical (width, height, depth) uint16, `as_stored_probability`. Readers that apply the slope, as the
    standard asks, get float numbers in [0, 1], right to 8e-6, from half the space of float32.
    """
    _write(path, voxels, header, np.dtype(np.uint16), slope=1 / PROBABILITY_ONE)


def as_stored_probability(probability: np.ndarray) -> np.ndarray:
    """Return float probabilities as the uint16 that files hold; 0.5 and more stay so."""
    return (probability * np.float32(PROBABILITY_ONE) + np.float32(0.5)).astype(np.uint16)


def _write(path: Path, voxels: np.ndarray, header: Any, dtype: np.dtype, slope: float) -> None:
    """Write canonical voxels slab by slab, so that no second copy of them is ever held."""
    native = to_native(voxels, header)
    out = header.as_byteswapped("<") if header.endianness == ">" else header.copy()
    out.set_data_shape(native.shape)
    out.set_data_dtype(dtype)
    out.set_slope_inter(slope, 0)
    out["cal_min"], out["cal_max"] = 0, 0
    out["magic"] = b"n+1" if out.sizeof_hdr == 348 else b"n+2\0\r\n\x1a\n"
    no_extensions = bytes(4)
    out["vox_offset"] = out.sizeof_hdr + len(no_extensions)
    packer: Any = isal_zlib.compressobj(COMPRESSION, wbits=GZIP_FORMAT) if path.name.endswith(".gz") else None
    with replacing(path) as beside, open(beside, "wb") as file:
        for data in _chunks(out.binaryblock + no_extensions, native, dtype):
            file.write(packer.compress(data) if packer else data)
        if packer:
            file.write(packer.flush())


def _chunks(head: bytes, native: np.ndarray, dtype: np.dtype) -> Iterator[Any]:
    yield head
    for k in range(native.shape[2]):  # NIfTI's first axis runs fastest
        yield np.ascontiguousarray(native[..., k].T, dtype.newbyteorder("<")).data.cast("B")
