"""Which scans a user means, and reading one, whatever it is: NIfTI files, DICOM series, trees of both."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tf_liver.data import DataError
from tf_liver.data.cases import SUFFIXES, case_id_of
from tf_liver.data.nifti import Volume, read_volume
from tf_liver.files import irregular


def find_scans(paths: Sequence[Path], output: Path | None = None) -> list[Path]:
    """Return the scans that paths stand for: a folder stands for the NIfTI files and DICOM series at any depth in it.

    A series is a folder with DICOM files and without NIfTI files; of each file no more than its first bytes are read.
    Hidden files and folders (macOS `._*`) are not scans, nor is what lies in `output`, the results of earlier calls.
    What holds no scan stands for itself, so that reading it says what is wrong.

    Raises:
        DataError: folders only, and no scan in any.
    """
    below = {path: _scans_below(path, output) if path.is_dir() else [path] for path in paths}
    if not any(below.values()):
        folders = len(list(_folders(paths[0], output)))
        raise DataError(
            f"{paths[0]}: must hold NIfTI files or DICOM series, itself or in folders below. "
            f"Received: none, in {folders} folder{'s' * (folders != 1)}"
        )
    return list(dict.fromkeys(scan for path, scans in below.items() for scan in (scans or [path])))


def _scans_below(top: Path, output: Path | None) -> list[Path]:
    found: list[Path] = []
    for folder, files in _folders(top, output):
        if niftis := [path for path in files if path.name.endswith(SUFFIXES)]:
            found += niftis
        elif any(_is_dicom(path) for path in files):
            found.append(folder)
    return found


def _folders(top: Path, output: Path | None) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder, itself first, with its files by name; links are followed, each folder is seen once."""
    seen = {output.resolve()} if output else set()

    def refuse(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen and folder != top:
            folders.clear()
            continue
        seen.add(folder.resolve())
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield folder, [folder / one for one in sorted(files) if not one.startswith(".")]


def _is_dicom(path: Path) -> bool:
    """Say whether a file begins as DICOM files do (PS3.10 7.1); a pipe or device is not opened."""
    try:
        if irregular(path):
            return False
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # reading the series names it
        return True


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
