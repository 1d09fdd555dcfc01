"""Which scans a user means, and reading one, whatever it is: NIfTI files, folders of them, DICOM series folders."""

import os
from collections.abc import Sequence
from pathlib import Path

from tf_liver.data import DataError
from tf_liver.data.cases import SUFFIXES, case_id_of
from tf_liver.data.nifti import Volume, read_volume


def find_scans(paths: Sequence[Path]) -> list[Path]:
    """Return the scans that paths stand for: a folder that holds NIfTI files stands for those, sorted by name.

    Any other folder stands for itself, a DICOM series. macOS `._*` files are not scans.
    """
    return [scan for path in paths for scan in (_nifti_files(path) or [path])]


def _nifti_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))


def name_of_scan(scan: Path) -> str:
    """Return what the results of a scan are named after: the file's name without suffix, or the series folder's."""
    return scan.resolve().name if scan.is_dir() else case_id_of(scan)


def read_scan(scan: Path) -> Volume:
    """Read a NIfTI file or a DICOM series folder.

    Raises:
        DataError: anything wrong with it.
        FileNotFoundError: no such file or folder.
    """
    if not scan.is_dir():
        return read_volume(scan)
    if not os.listdir(scan):
        raise DataError(f"{scan}: the folder is empty")
    try:
        from tf_liver.data.dicom import read_series
    except ModuleNotFoundError as error:
        raise DataError(
            f"{scan}: holds no NIfTI file, and DICOM needs {error.name}: pip install 'tf_liver[dicom]'"
        ) from error
    return read_series(scan)
