"""Building the prepared store: several processes, case by case, resumable, one builder at a time."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tf_liver import __version__, files
from tf_liver.data import DataError
from tf_liver.data.cases import Case
from tf_liver.data.nifti import check_same_grid, read_grid, read_label, read_volume
from tf_liver.data.slices import positive_slices
from tf_liver.data.store import FORMAT, MANIFEST, images_path, labels_path, read_record, record_path, slice_crc
from tf_liver.processes import in_processes
from tf_liver.progress import track

PREPARED = Path("prepared")
# What one core decoded, checked and wrote of 512² int16 scans on the machine of benchmarks/README.md; only for
# the estimate on the screen.
CORE_BYTES_PER_S = 250e6


def default_folder(data: Path, root: Path) -> Path:
    """Return the store of a data folder: named after it, and after its full path, so that two never meet."""
    digest = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]
    return root / f"{data.resolve().name}-{digest}"


def prepare(
    cases: Sequence[Case], folder: Path, workers: int, full: bool = False, say: Callable[[str], None] = print
) -> list[str]:
    """Bring a store up to date with the scans; return the case_ids that had to be built.

    Cases that are there, whole and of unchanged sources stay as they are. `full` also reads every stored slice
    and compares its CRC; that is done by itself when the last builder did not come to its end.

    Raises:
        DataError: a scan that cannot be read, or too little space.
        OSError: a folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, say):
        full = full or not (folder / MANIFEST).exists()
        checkers = workers if full else 1  # a quick look is over before a process has started
        current = list(
            track(in_processes(_is_current, cases, checkers, folder, full), "checking prepared slices", len(cases))
        )
        missing = [case for case, good in zip(cases, current, strict=True) if not good]
        if missing:
            _announce(missing, folder, workers, say)
            (folder / MANIFEST).unlink(missing_ok=True)
            for leftover in folder.glob(".*.npy"):  # of a builder that was killed
                leftover.unlink()
            for _ in track(in_processes(build_case, missing, workers, folder), "preparing slices", len(missing)):
                pass
        if missing or not (folder / MANIFEST).exists():
            _commit(cases, folder)
    return [case.case_id for case in missing]


def _commit(cases: Sequence[Case], folder: Path) -> None:
    """Force everything to disk, and only then say that it is there."""
    for case in cases:
        for path in (images_path, labels_path, record_path):
            files.fsync(path(folder, case.case_id))
    manifest = {"format": FORMAT, "tf_liver": __version__, "cases": [case.case_id for case in cases]}
    files.write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def build_case(case: Case, folder: Path) -> None:
    """Decode one case once and write its three files, the record last.

    Files are renamed into place but not yet forced to disk: `_commit` does that for all together, and what a
    power cut loses before it is found by its CRC.
    """
    label = read_label(case.label)
    image = read_volume(case.image)
    check_same_grid(image, label, case.label)
    positives = positive_slices(label.slices)
    record = {
        "format": FORMAT,
        "case_id": case.case_id,
        "sources": {"image": _source(case.image), "label": _source(case.label)},
        "shape": image.slices.shape,
        "dtype": str(image.voxels.dtype),
        "spacing_mm": image.spacing_mm,
        "affine": image.affine.tolist(),
        "positives": positives.tolist(),
        "image_crc32": _write(images_path(folder, case.case_id), image.slices, range(len(image.slices))),
        "label_crc32": _write(labels_path(folder, case.case_id), label.slices, positives),
    }
    files.write_atomic(record_path(folder, case.case_id), json.dumps(record) + "\n")


def _write(path: Path, slices: np.ndarray, chosen: Iterable[int]) -> list[int]:
    """Write the chosen slices as one .npy array and return their CRCs."""
    chosen, crcs = list(chosen), []
    header = {"descr": slices.dtype.str, "fortran_order": False, "shape": (len(chosen), *slices.shape[1:])}
    with files.replacing(path, sync=False) as beside, open(beside, "wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for z in chosen:
            one = np.ascontiguousarray(slices[z])
            crcs.append(slice_crc(one))
            out.write(one.data)
    return crcs


def _source(path: Path) -> dict[str, Any]:
    """Return what identifies a source file: size and time for a quick look, SHA-256 for a sure one."""
    facts = path.stat()
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path.resolve()), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": digest}


def _is_current(case: Case, folder: Path, full: bool) -> bool:
    """Say whether a case is there, whole, and made from the sources as they are now."""
    record = read_record(folder, case.case_id)
    if record is None or record["case_id"] != case.case_id:
        return False
    for kind, path in (("image", case.image), ("label", case.label)):
        known, facts = record["sources"][kind], path.stat()
        if (known["bytes"], known["mtime_ns"]) != (facts.st_size, facts.st_mtime_ns) and (
            known["bytes"] != facts.st_size or known["sha256"] != _source(path)["sha256"]
        ):
            return False
    shape, name = record["shape"][1:], case.case_id
    return _is_whole(images_path(folder, name), record["dtype"], record["image_crc32"], shape, full) and _is_whole(
        labels_path(folder, name), "uint8", record["label_crc32"], shape, full
    )


def _is_whole(path: Path, dtype: str, crcs: list[int], shape: list[int], full: bool) -> bool:
    """Compare an array file with its record: type and size, and with `full` every slice."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):  # missing, cut short, or no plain array
        return False
    if array.dtype != dtype or array.shape != (len(crcs), *shape):
        return False
    return not full or all(slice_crc(array[z]) == crc for z, crc in enumerate(crcs))


def _announce(cases: Sequence[Case], folder: Path, workers: int, say: Callable[[str], None]) -> None:
    """Say what will be built, how large and how long, and refuse at once if it cannot fit."""
    size = sum(2 * read_grid(case.image).voxels.size for case in cases)
    free = shutil.disk_usage(folder).free
    seconds = size / CORE_BYTES_PER_S / min(workers, len(cases))
    time = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    say(
        f"preparing {len(cases)} cases into {folder}: about {size / 1e9:.1f} GB plus labels "
        f"({free / 1e9:.1f} GB free), about {time}; --no-store streams instead"
    )
    if size > free:
        raise DataError(
            f"{folder}: the prepared slices need about {size / 1e9:.1f} GB. Received: {free / 1e9:.1f} GB free; "
            "--prepared names another folder, --no-store streams instead"
        )


@contextmanager
def _lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the store's lock, which the system frees when its holder dies; wait for another builder."""
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: another process is preparing it; waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
