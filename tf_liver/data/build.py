"""Building the prepared store: several processes, case by case, resumable, one builder at a time."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tf_liver import __version__, files
from tf_liver.data import DataError
from tf_liver.data.cases import Case
from tf_liver.data.nifti import as_label, check_same_grid, is_plain_int16, iterate_slices, read_grid
from tf_liver.data.slices import foreground, has_tumour
from tf_liver.data.store import (
    FORMAT,
    MANIFEST,
    check_array,
    images_path,
    labels_path,
    read_manifest,
    read_record,
    record_path,
    seal_of,
    slice_crc,
    write_record,
)
from tf_liver.data.writer import BLOCK_BYTES, SliceWriter
from tf_liver.processes import in_processes
from tf_liver.progress import track

PREPARED = Path("prepared")
NEW = "not prepared yet"
# What one core decoded, checked and wrote of 512² int16 scans on the machine of benchmarks/README.md; only for
# the estimate on the screen.
CORE_BYTES_PER_S = 400e6


def default_folder(data: Path, root: Path) -> Path:
    """Return the store of a data folder: named after it, and after its full path, so that two never meet."""
    digest = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:8]
    return root / f"{data.resolve().name}-{digest}"


def prepare(
    cases: Sequence[Case], folder: Path, workers: int, full: bool = False, say: Callable[[str], None] = print
) -> list[str]:
    """Bring a store up to date with the scans; return the case_ids that had to be built.

    Cases that are there, whole and of unchanged sources stay as they are. `full` also reads every source and every
    stored slice and compares hash and CRC; that is done by itself when the last builder did not come to its end.

    Raises:
        DataError: a scan that cannot be read, or too little space.
        OSError: a folder that cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, say):
        known = read_manifest(folder)
        looks = [full or known.get(case.case_id) != seal_of(folder, case.case_id) for case in cases]
        tasks = list(zip(cases, looks, strict=True))
        checkers = workers if any(looks) else 1  # a quick look is over before a process has started
        looked = track(in_processes(_why_not_current, tasks, checkers, folder), "checking prepared slices", len(cases))
        reasons = {case: reason for case, reason in zip(cases, list(looked), strict=True) if reason}
        missing = list(reasons)
        if missing:
            for reason in reasons.values():
                if reason != NEW:
                    say(f"{reason}; prepared again")
            _announce(missing, folder, workers, say)
        if missing or any(case.case_id not in known for case in cases):
            _clear_away(missing, folder)
            if missing:
                for _ in track(in_processes(build_case, missing, workers, folder), "preparing slices", len(missing)):
                    pass
            _commit(sorted({*known, *(case.case_id for case in cases)}), folder)
    return [case.case_id for case in missing]


def _clear_away(cases: Sequence[Case], folder: Path) -> None:
    """Take back that the store is whole, remove what a killed builder left, and set folders in our places aside."""
    for path in (folder / MANIFEST, *(path for case in cases for path in _paths(folder, case.case_id))):
        _set_aside(path)
    (folder / MANIFEST).unlink(missing_ok=True)
    for leftover in (path for kind in ("npy", "json", MANIFEST) for path in folder.glob(f".*.{kind}")):
        leftover.unlink()


def _set_aside(path: Path) -> None:
    """Move what lies in the place of a file and is none, such as a folder, out of the way."""
    if os.path.lexists(path) and not path.is_file():
        path.rename(Path(tempfile.mkdtemp(prefix="aside-", dir=path.parent)) / path.name)


def _paths(folder: Path, case_id: str) -> list[Path]:
    """Return the files of a case."""
    return [path(folder, case_id) for path in (images_path, labels_path, record_path)]


def _commit(case_ids: Sequence[str], folder: Path) -> None:
    """Force everything to disk, and only then say that it is there."""
    seals = {case_id: seal for case_id in case_ids if (seal := seal_of(folder, case_id))}
    for case_id in seals:
        for path in _paths(folder, case_id):
            files.fsync(path)
    manifest = {
        "format": FORMAT,
        "tf_liver": __version__,
        "settings": {"axes": ["depth", "height", "width"], "orientation": "RAS", "values": "HU"},
        "cases": seals,
    }
    files.write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def build_case(case: Case, folder: Path) -> None:
    """Decode one case once and write its three files, the record last.

    Files are renamed into place but not yet forced to disk: `_commit` does that for all together, and what a
    power cut loses before it is found by its CRC.
    """
    paths = {"image": case.image, "label": case.label}
    facts = {kind: _facts(path) for kind, path in paths.items()}
    # Hashed as they are decoded. XXH3 takes a tenth of the time of SHA-256, which would be an eighth of all preparing.
    digests = {kind: xxhash.xxh3_128() for kind in paths}
    grid = read_grid(case.image)
    check_same_grid(grid, read_grid(case.label), case.label)
    positives: list[int] = []  # in the order of the file of labels, which is that of the scan's file
    tumours: list[int] = []

    def liver_slices() -> Iterator[tuple[int, np.ndarray]]:
        for z, one in iterate_slices(case.label, digests["label"]):
            # Most are empty, which is right as it is, and need no second look.
            if one.any() and foreground(label := as_label(one, case.label)).any():
                positives.append(z)
                tumours.extend([z] if has_tumour(label) else [])
                yield len(positives) - 1, label

    plane = grid.slices.shape[1:]
    label_crcs, _ = _write(labels_path(folder, case.case_id), liver_slices(), plane)
    images = iterate_slices(case.image, digests["image"])
    image_crcs, dtype = _write(images_path(folder, case.case_id), images, plane)
    for kind, path in paths.items():
        if _facts(path) != facts[kind]:
            raise DataError(f"{path}: changed while it was being prepared")
    record = {
        "format": FORMAT,
        "case_id": case.case_id,
        "sources": {kind: _source(path, facts[kind], digests[kind]) for kind, path in paths.items()},
        "shape": grid.slices.shape,
        "dtype": dtype,
        "spacing_mm": grid.spacing_mm,
        "affine": grid.affine.tolist(),
        "positives": positives,
        "tumours": tumours,
        "image_crc32": image_crcs,
        "label_crc32": label_crcs,
    }
    write_record(folder, record)


def _write(path: Path, slices: Iterable[tuple[int, np.ndarray]], plane: tuple[int, ...]) -> tuple[list[int], str]:
    """Write numbered slices, in whatever order they come, as one .npy array; return their CRCs and type."""
    crcs = {}
    with files.replacing(path, sync=False) as beside, SliceWriter(beside, plane) as out:
        for z, one in slices:
            crcs[z] = slice_crc(out.write(z, one))
    return [crcs[z] for z in sorted(crcs)], str(out.dtype)


def _source(path: Path, facts: dict[str, int], digest: Any) -> dict[str, Any]:
    """Return what identifies a source file: size and time for a quick look, its hash for a sure one."""
    return {"path": str(path.resolve()), **facts, "xxh3_128": digest.hexdigest()}


def _facts(path: Path) -> dict[str, int]:
    facts = path.stat()
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def _why_not_current(task: tuple[Case, bool], folder: Path) -> str:
    """Say why a case must be built; "" if it is whole (to the last bit if asked) and its sources have not changed."""
    case, full = task
    record = read_record(folder, case.case_id)
    if record is None:
        there = any(os.path.lexists(path) for path in _paths(folder, case.case_id))
        return f"{record_path(folder, case.case_id)}: is not as it was written" if there else NEW
    for kind, path in (("image", case.image), ("label", case.label)):
        known = record["sources"][kind]
        if not full and all(known[key] == value for key, value in _facts(path).items()):
            continue
        with open(path, "rb") as stream:
            fresh = _source(path, _facts(path), hashlib.file_digest(stream, xxhash.xxh3_128))
        if fresh["xxh3_128"] != known["xxh3_128"]:
            return f"{path}: is not the file that was prepared"
        known.update(fresh)  # touched or copied, not changed: the next look is quick again
        write_record(folder, record)
    shape, name = record["shape"][1:], case.case_id
    return _why_not_whole(
        images_path(folder, name), record["dtype"], record["image_crc32"], shape, full
    ) or _why_not_whole(labels_path(folder, name), "uint8", record["label_crc32"], shape, full)


def _why_not_whole(path: Path, dtype: str, crcs: list[int], shape: list[int], full: bool) -> str:
    """Say what is wrong with an array file by its record: type and size, and with `full` every slice."""
    whole = (len(crcs), *shape)
    if fault := check_array(path, dtype, whole):
        return f"{path}: {fault}"
    if not full or not crcs:
        return ""
    array = np.memmap(path, dtype, "r", BLOCK_BYTES, whole)
    bad = next((z for z, crc in enumerate(crcs) if slice_crc(array[z]) != crc), None)
    return "" if bad is None else f"{path}: slice {bad} is damaged (its CRC-32 differs)"


def _announce(cases: Sequence[Case], folder: Path, workers: int, say: Callable[[str], None]) -> None:
    """Say what will be built, how large and how long, and refuse at once if it cannot fit."""
    grids = [read_grid(case.image) for case in cases]
    # Images as int16 where they are stored so, else perhaps float32; labels, of liver slices only, at most a byte more.
    size = sum(g.voxels.size * (3 if is_plain_int16(g.header) else 5) for g in grids)
    free = shutil.disk_usage(folder).free
    seconds = size / CORE_BYTES_PER_S / min(workers, len(cases))
    time = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    say(
        f"preparing {len(cases)} cases into {folder}: up to {size / 1e9:.1f} GB ({free / 1e9:.1f} GB free), "
        f"about {time}; `train --no-store` streams instead"
    )
    if size > free:
        raise DataError(
            f"{folder}: the prepared slices need up to {size / 1e9:.1f} GB. Received: {free / 1e9:.1f} GB free; "
            "--prepared names another folder, `train --no-store` streams instead"
        )


@contextmanager
def _lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the store's lock, which the system frees when its holder dies; wait for another builder.

    A store on a read-only disk needs none: nobody can build it, and it is used if it is whole.
    """
    try:
        _set_aside(folder / ".lock")
        handle = open(folder / ".lock", "a")  # noqa: SIM115  closed below
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES) or not (folder / MANIFEST).exists():
            raise
        yield
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: another process is preparing it; waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
