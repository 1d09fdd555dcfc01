"""A folder with one DICOM CT series as a volume: pydicom reads the files, the geometry is checked and built here.

Positions and directions are those of PS3.3 C.7.6.2 (Image Plane Module), in mm, +x to the patient's left, +y to the
back, +z to the head; NIfTI turns x and y round. The extra `dicom` brings pydicom, and GDCM for compressed pixels.
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
from tf_liver.data.header import check_affine
from tf_liver.data.nifti import Volume, canonical

# Field → how many numbers it must hold.
REQUIRED = {
    **{"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2},
    **{"Rows": 1, "Columns": 1, "RescaleSlope": 1, "RescaleIntercept": 1},
}
# Scanners round positions to 0.1 mm or less; slices are 0.5 mm apart and more.
UNEVEN = 0.2
TILT_DEGREES = 0.1
_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_series(folder: Path) -> Volume:
    """Read a folder that holds the files of one CT series, in any order, as HU.

    A tilted gantry makes a sheared grid: it is kept exactly, in the sform, with a warning.

    Raises:
        DataError: no series or several, not CT, slices that differ in size or direction, two in one place, a missing
            one, a file that cannot be read; the message names it.
    """
    slices = _read_headers(folder)
    _check_one_series(folder, slices)
    _check_alike(slices)
    ordered, step = _in_order(folder, slices)
    voxels = _read_voxels(ordered)
    return canonical(voxels.transpose(2, 1, 0), _header(folder, ordered[0], step, voxels.shape[::-1]))


def _read_header(path: Path) -> Any:
    """Return pydicom's dataset of a file, without its pixels."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError):
        raise
    except Exception as error:  # pydicom has no common base class for what damaged files make it raise
        raise DataError(f"{path}: damaged DICOM file: {type(error).__name__}: {error}") from error


def _read_headers(folder: Path) -> list[Any]:
    """Return the headers of all images in a folder; what is no DICOM image is passed over with a warning."""
    images, others = [], []
    for path in sorted(p for p in folder.iterdir() if not p.is_dir() and not p.name.startswith(".")):
        if not path.is_file():  # a pipe would be waited for
            others.append(path.name)
            continue
        try:
            header = _read_header(path)
        except InvalidDicomError:
            others.append(path.name)
            continue
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
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


def _value(one: Any, field: str) -> Any:
    """Return the value of a field, or None; pydicom decodes it only now, and raises what it likes."""
    try:
        return one.get(field)
    except Exception as error:
        raise DataError(f"{one.filename}: {field} cannot be read: {type(error).__name__}: {error}") from error


def _numbers(one: Any, field: str, count: int) -> np.ndarray:
    """Return a field's numbers, (count,) float64, all finite."""
    value = _value(one, field)
    if value in (None, ""):
        raise DataError(f"{one.filename}: {field} must be there. Received: nothing")
    try:
        numbers = np.atleast_1d(np.array(value, np.float64))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        what = "a finite number" if count == 1 else f"{count} finite numbers"
        raise DataError(f"{one.filename}: {field} must be {what}. Received: {str(value)[:80]}")
    return numbers


def _check_one_series(folder: Path, slices: Sequence[Any]) -> None:
    series = Counter(str(_value(one, "SeriesInstanceUID") or "") for one in slices)
    if len(series) > 1:
        names = {str(_value(one, "SeriesInstanceUID") or ""): _value(one, "SeriesDescription") for one in slices}
        found = "; ".join(f"{names[uid] or 'no description'} ({uid}): {n} files" for uid, n in sorted(series.items()))
        raise DataError(f"{folder}: must hold one series, a folder each. Received {len(series)}: {found}")


def _check_alike(slices: Sequence[Any]) -> None:
    """Every slice must be a CT image with a place, and all of one size, spacing and direction."""
    first = slices[0]
    for one in slices:
        name = one.filename
        if (modality := _value(one, "Modality")) != "CT":
            raise DataError(f"{name}: the modality must be CT. Received: {modality}")
        if _value(one, "NumberOfFrames") not in (None, "") and _numbers(one, "NumberOfFrames", 1)[0] > 1:
            raise DataError(f"{name}: must be one slice; enhanced multi-frame files are not read. Received: several")
        for field, count in REQUIRED.items():
            _numbers(one, field, count)
        for field in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            mine, others = (_numbers(header, field, REQUIRED[field]) for header in (one, first))
            if not np.allclose(mine, others, atol=1e-4):
                raise DataError(f"{name}: {field} must be that of {first.filename}: {others}. Received: {mine}")
    for field in ("Rows", "Columns", "PixelSpacing"):
        if not (_numbers(first, field, REQUIRED[field]) > 0).all():
            raise DataError(f"{first.filename}: {field} must be positive. Received: {_value(first, field)}")


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
        given = [f for f in ("SpacingBetweenSlices", "SliceThickness") if _value(ordered[0], f) not in (None, "", 0)]
        thickness = float(_numbers(ordered[0], given[0], 1)[0]) if given else 1.0
        return ordered, normal * abs(thickness)
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    for below, above, gap in zip(ordered, ordered[1:], steps.tolist(), strict=False):
        pair = f"between {Path(below.filename).name} and {Path(above.filename).name}"
        if gap < 1e-3 or gap < usual * (1 - UNEVEN):
            what = "two slices in one place" if gap < 1e-3 else "slices closer than the others"
            raise DataError(f"{folder}: {what} {pair}: {gap:.3g} mm. The others: {usual:.3g} mm")
        if gap > usual * (1 + UNEVEN):
            missing = max(1, round(min(gap / usual, 1e6)) - 1)
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
    with np.errstate(over="ignore"):
        header.set_sform(affine, code=1)
        check_affine(header, folder)  # as of a NIfTI file
        header.set_qform(affine, code=0 if tilt > TILT_DEGREES else 1)
    return header


def _read_voxels(slices: Sequence[Any]) -> np.ndarray:
    """Return HU (D, H, W), slice by slice: int16 where all values allow it exactly, otherwise float32."""
    voxels = np.empty((len(slices), slices[0].Rows, slices[0].Columns), np.int16)
    for k, header in enumerate(slices):
        slope, intercept = (float(_numbers(header, f, 1)[0]) for f in ("RescaleSlope", "RescaleIntercept"))
        try:
            stored = pydicom.dcmread(header.filename).pixel_array
        except Exception as error:  # decoders raise what they like
            raise DataError(f"{header.filename}: the pixels cannot be decoded: {error}") from error
        if stored.shape != voxels.shape[1:]:
            raise DataError(f"{header.filename}: must hold one plane of grey values. Received: {stored.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            hu = stored * slope + intercept
            fits = np.isfinite(hu.astype(np.float32)).all()
        if not fits:
            values = f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}"
            raise DataError(f"{header.filename}: rescaled voxels must fit float32. Received: {values}")
        whole = slope.is_integer() and intercept.is_integer() and hu.min() >= -32768 and hu.max() <= 32767
        if not whole and voxels.dtype == np.int16:
            voxels = voxels.astype(np.float32)
        voxels[k] = hu
    return voxels
