"""The NIfTI header: read with bounds, checked for what nibabel lets through without a word, and its affine in mm."""

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.quaternions import fillpositive
from nibabel.spatialimages import HeaderDataError

from tf_liver.data import DataError

# deflate cannot do better than 1032:1 (zlib's FAQ); a header that promises more is lying.
MAX_DEFLATE_RATIO = 1032
MAX_EXTRA_BYTES = 1 << 20
MAX_VOX_OFFSET = 1 << 26
# Of single files, NIfTI-1 and 2; nibabel takes the latter's second half for a check of line ends, which may be absent.
MAGICS = (b"n+1\0", b"n+2\0\r\n\x1a\n", b"n+2\0\0\0\0\0")
# The NIfTI-1 standard's xyzt_units, its lowest three bits: unknown, metre, millimetre, micron.
UNIT_BITS, MM_PER_UNIT = 7, {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
LAST_FORM_CODE = 5  # NIFTI_XFORM_TEMPLATE_OTHER
# Rounding in one form or the other moves a corner by less.
FORMS_APART_MM = 1.0


class Nifti2Header(nib.Nifti2Header):
    """nibabel's, but a quaternion that it refuses may be as far from one as NIfTI-1's float32 leaves it."""

    def get_qform_quaternion(self) -> Any:
        """Return (w, x, y, z); the wider threshold sets small w to 0, so it must not be asked first."""
        try:
            return super().get_qform_quaternion()
        except ValueError:
            vector = [float(self[f"quatern_{name}"]) for name in "bcd"]
            return fillpositive(vector, nib.Nifti1Header.quaternion_threshold)


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
    magic = block[344:348] if kind is nib.Nifti1Header else block[4:12]
    if magic not in MAGICS:
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


def affine_mm(header: Any) -> np.ndarray:
    """Return the affine that counts, voxel index of the file to mm, (4, 4) float64; units are honoured here alone."""
    header, _ = mended(header)
    affine = np.array(header.get_best_affine(), np.float64)
    affine[:3] *= MM_PER_UNIT[int(header["xyzt_units"]) & UNIT_BITS]
    return affine


def corner_distance_mm(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance between the same corner voxel of two grids of one shape."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    apart = apply_affine(first, corners) - apply_affine(second, corners)
    return float(np.linalg.norm(apart, axis=1).max())


def mended(header: Any) -> tuple[Any, list[str]]:
    """Return a header with what breaks the standard changed as nibabel 5.4.2 does on loading, and what to say of it.

    The header itself stays as it is: a label map keeps it, so that every reader takes the map as it takes the scan.
    """
    header, said = header.copy(), []
    for name in ("qform_code", "sform_code"):
        if not 0 <= (code := int(header[name])) <= LAST_FORM_CODE:
            header[name] = 0
            but = ", as in nibabel; SimpleITK may use it" if code > 0 else ""  # 5.4.2, 2.5.7
            said.append(
                f"{name} must lie in [0, {LAST_FORM_CODE}]. Received: {code}; that orientation is not used{but}"
            )
    if (unit := int(header["xyzt_units"]) & UNIT_BITS) not in MM_PER_UNIT:
        header["xyzt_units"] = int(header["xyzt_units"]) & ~UNIT_BITS & 0xFF
        said.append(f"xyzt_units must be metres, mm or microns. Received: code {unit}; taken as mm")
    qfac = float(header["pixdim"][0])
    if qfac not in (-1, 1):
        header["pixdim"][0] = 1
        if qfac != 0 and not int(header["sform_code"]):  # by the standard, 0 is 1
            said.append(f"pixdim[0] must be -1 or 1. Received: {qfac:g}; taken as 1, which may mirror the slices")
    return header, said


def grid_doubts(header: Any) -> list[str]:
    """Return what is doubtful about the place of the voxels of a checked header, a sentence each."""
    header, said = mended(header)
    return said + _form_doubts(header)


def _form_doubts(header: Any) -> list[str]:
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        # As measured with nibabel 5.4.2 and SimpleITK 2.5.7.
        return [
            "no orientation is set (qform_code and sform_code are 0): nibabel and SimpleITK mirror such voxels front "
            "to back against each other; which side is right is a guess"
        ]
    if not int(header["sform_code"]) or not int(header["qform_code"]):
        return []
    try:
        apart_mm = corner_distance_mm(header.get_sform(), header.get_qform(), header.get_data_shape())
    except (ValueError, HeaderDataError):
        return ["the qform cannot be computed; the sform gives the orientation, as in nibabel"]
    apart_mm *= MM_PER_UNIT[int(header["xyzt_units"]) & UNIT_BITS]
    if apart_mm <= FORMS_APART_MM:
        return []
    # findings/nifti-two-forms.sh
    other = "; SimpleITK takes the qform" if int(header["sform_code"]) > 1 else ""
    far = f"sform and qform put a corner {apart_mm:.3g} mm apart"
    return [f"{far}; the sform gives the orientation, as in nibabel{other}"]


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
    check_affine(header, path)


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


def check_affine(header: Any, path: Path) -> None:
    """Raise DataError unless the affine that will be used is finite and invertible, of NIfTI files and DICOM alike."""
    header, _ = mended(header)
    spacing = [float(p) for p in header["pixdim"][1:4]]
    if int(header["sform_code"]) == 0 and not all(np.isfinite(p) and p > 0 for p in spacing):
        raise DataError(f"{path}: pixdim must be positive. Received: {spacing}")
    try:
        affine = affine_mm(header)
    except (ValueError, HeaderDataError) as error:
        raise DataError(f"{path}: the quaternion of the qform must be one. Received: {error}") from error
    if not np.isfinite(affine).all():
        raise DataError(f"{path}: the affine must be finite. Received: {affine.tolist()}")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # The volume of the cell of unit vectors: 1 for orthogonal axes, 0 for axes in one plane.
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise DataError(f"{path}: the affine must be invertible. Received: {affine.tolist()}")
