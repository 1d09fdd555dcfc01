"""A folder with one DICOM CT series as a volume: pydicom reads the files, the geometry is checked and built here.

Positions and directions are those of PS3.3 C.7.6.2 (Image Plane Module), in mm, +x to the patient's left, +y to the back,
+z to the head; NIfTI turns x and y round. The extra `dicom` brings pydicom, and GDCM for compressed pixels.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from tf_liver.data import DataError, DataWarning
from tf_liver.data.nifti import Volume, canonical

REQUIRED = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("Rows", "Columns", "RescaleSlope", "RescaleIntercept"),
)
# Scanners round positions to 0.1 mm or less; slices are 0.5 mm apart and more.
UNEVEN = 0.2
TILT_DEGREES = 0.1
_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_series(folder: Path) -> Volume:
    """Read a folder that holds the files of one CT series, in any order, as HU.

    A tilted gantry makes a sheared grid: it is kept exactly, in the sform, with a warning.

    Raises:
        DataError: no series or several, not CT, slices that differ in size or direction, two in one place, a missing one,
            a file that cannot be read; the message names it.
    """
    slices = _read_headers(folder)
    _check_one_series(folder, slices)
    _check_alike(slices)
    ordered, step = _in_order(folder, slices)
    voxels = _read_voxels(ordered)
    return canonical(voxels.transpose(2, 1, 0), _header(folder, ordered[0], step, voxels.shape[::-1]))


def _read(path: Path, pixels: bool) -> Any:
    """Return pydicom's dataset of a file."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except (InvalidDicomError, OSError):
        raise
    except Exception as error:  # pydicom has no common base class for what damaged files make it raise
        raise DataError(f"{path}: damaged DICOM file: {type(error).__name__}: {error}") from error


def _read_headers(folder: Path) -> list[Any]:
    """Return the headers of all images in a folder; what is no DICOM image is passed over with a warning."""
    images, others = [], []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            header = _read(path, pixels=False)
        except InvalidDicomError:
            others.append(path.name)
            continue
        if "Rows" in header:
            images.append(header)
        elif path.name != "DICOMDIR":
            others.append(path.name)
    if not images:
        raise DataError(f"{folder}: must hold NIfTI files or the DICOM files of a CT series. Received: neither")
    if others:
        some = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        warnings.warn(f"{folder}: {len(others)} files are no DICOM images ({some}); ignored", DataWarning, stacklevel=4)
    return images


def _check_one_series(folder: Path, slices: Sequence[Any]) -> None:
    series = Counter(str(one.get("SeriesInstanceUID", "")) for one in slices)
    if len(series) > 1:
        names = {str(one.get("SeriesInstanceUID", "")): str(one.get("SeriesDescription", "")) for one in slices}
        found = "; ".join(f"{names[uid] or 'no description'} ({uid}): {n} files" for uid, n in sorted(series.items()))
        raise DataError(f"{folder}: must hold one series, a folder each. Received {len(series)}: {found}")


def _check_alike(slices: Sequence[Any]) -> None:
    """Every slice must be a CT image with a place, and all of one size, spacing and direction."""
    first = slices[0]
    for one in slices:
        name = one.filename
        if (modality := one.get("Modality")) != "CT":
            raise DataError(f"{name}: the modality must be CT. Received: {modality}")
        if int(one.get("NumberOfFrames", 1)) > 1:
            raise DataError(f"{name}: must be one slice; enhanced multi-frame files are not read. Received: several")
        for field in REQUIRED:
            if one.get(field) in (None, ""):
                raise DataError(f"{name}: {field} must be there. Received: nothing")
        for field in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            mine, others = np.atleast_1d(one[field].value), np.atleast_1d(first[field].value)
            if mine.shape != others.shape or not np.allclose(mine.astype(float), others.astype(float), atol=1e-4):
                raise DataError(f"{name}: {field} must be that of {first.filename}: {others}. Received: {mine}")


def _in_order(folder: Path, slices: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the slices along their normal, and the step in mm (3,) from each to the next, DICOM axes."""
    along_row, along_column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    if not np.isclose(np.linalg.norm(normal), 1, atol=1e-3):
        raise DataError(f"{folder}: ImageOrientationPatient must be two unit vectors at right angles")
    places = np.array([one.ImagePositionPatient for one in slices], float)
    order = np.argsort(places @ normal, kind="stable")
    ordered, places = [slices[i] for i in order], places[order]
    if len(ordered) == 1:
        thickness = float(ordered[0].get("SpacingBetweenSlices") or ordered[0].get("SliceThickness") or 1)
        return ordered, normal * thickness
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    for below, above, gap in zip(ordered, ordered[1:], steps.tolist(), strict=False):
        pair = f"between {Path(below.filename).name} and {Path(above.filename).name}"
        if gap < 1e-3 or gap < usual * (1 - UNEVEN):
            what = "two slices in one place" if gap < 1e-3 else "slices closer than the others"
            raise DataError(f"{folder}: {what} {pair}: {gap:.3g} mm. The others: {usual:.3g} mm")
        if gap > usual * (1 + UNEVEN):
            missing = max(1, round(gap / usual) - 1)
            raise DataError(f"{folder}: missing slices ({missing}) {pair}: a gap of {gap:.4g} mm, not {usual:.4g} mm")
    step = (places[-1] - places[0]) / (len(places) - 1)
    return ordered, step


def _header(folder: Path, first: Any, step: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Return a NIfTI header with the grid of the series: (columns, rows, slices)."""
    along_row, along_column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ np.stack([along_row * between_columns, along_column * between_rows, step], axis=1)
    affine[:3, 3] = _TO_RAS @ np.array(first.ImagePositionPatient, float)
    upright = float(step @ np.cross(along_row, along_column)) / float(np.linalg.norm(step))
    tilt = float(np.degrees(np.arccos(min(1.0, upright))))
    if tilt > TILT_DEGREES:
        warnings.warn(f"{folder}: the gantry was tilted by {tilt:.1f} degrees; the grid is sheared", DataWarning, 4)
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    # A qform cannot hold a shear; code 1 is "scanner anatomical".
    header.set_qform(affine, code=0 if tilt > TILT_DEGREES else 1)
    header.set_sform(affine, code=1)
    return header


def _read_voxels(slices: Sequence[Any]) -> np.ndarray:
    """Return HU (D, H, W), slice by slice: int16 where all values allow it exactly, otherwise float32."""
    voxels = np.empty((len(slices), slices[0].Rows, slices[0].Columns), np.int16)
    for k, header in enumerate(slices):
        one = _read(Path(header.filename), pixels=True)
        try:
            stored = one.pixel_array
        except Exception as error:  # decoders raise what they like
            raise DataError(f"{header.filename}: the pixels cannot be decoded: {error}") from error
        slope, intercept = float(one.RescaleSlope), float(one.RescaleIntercept)
        hu = stored * slope + intercept
        if stored.shape != voxels.shape[1:] or not np.isfinite(hu).all():
            raise DataError(f"{header.filename}: must hold one plane of finite grey values. Received: {stored.shape}")
        whole = slope.is_integer() and intercept.is_integer() and hu.min() >= -32768 and hu.max() <= 32767
        if not whole and voxels.dtype == np.int16:
            voxels = voxels.astype(np.float32)
        voxels[k] = hu
    return voxels
