"""Whole scans through the network, a batch of slices at a time, while others are read and written. No TensorFlow."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tf_liver.data import DataError
from tf_liver.data.cases import case_id_of
from tf_liver.data.nifti import Volume
from tf_liver.data.plausibility import require_image
from tf_liver.data.scans import read_scan
from tf_liver.data.slices import THRESHOLD, neighbourhood
from tf_liver.data.write import as_stored_probability, write_label_map, write_probability_map
from tf_liver.files import write_atomic
from tf_liver.progress import track
from tf_liver.volume.postprocess import postprocess
from tf_liver.volume.statistics import statistics

# HU slices (B, H, W) → probability float32, of liver (B, H, W), or of liver and of tumour (B, H, W, 2), as
# ScanPredictor; called from several threads. One that has an attribute `neighbours` is given so many slices more on
# each side, (B + 2n, H, W).
Predictor = Callable[[np.ndarray], Any]
BATCH_SLICES = 16
# While one batch has the network, the next one is resized and the last one is resized back.
THREADS = 2
# What is wrong with one scan, or with the place for its label map, and not with the program.
FAILURES = (ValueError, OSError, MemoryError)


def probability_batches(predictor: Predictor, slices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first slice, probability (b, H, W) or (b, H, W, 2) float32) over a whole scan, in order.

    slices: (depth, height, width) HU. Memory is bounded by a few batches.

    Raises:
        ValueError: the network gave NaN.
    """
    waiting: deque[tuple[int, Future[np.ndarray]]] = deque()

    def next_done() -> tuple[int, np.ndarray]:
        first, future = waiting.popleft()
        probability = future.result()
        if np.isnan(probability.sum()):
            last = first + len(probability) - 1
            raise ValueError(f"probabilities must be numbers. Received: NaN in slices {first} to {last}")
        return first, probability

    neighbours = getattr(predictor, "neighbours", 0)

    def work(first: int) -> np.ndarray:
        last = min(first + BATCH_SLICES, len(slices))
        return np.asarray(predictor(slices[neighbourhood(first, last, neighbours, len(slices))].astype(np.float32)))

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for first in range(0, len(slices), BATCH_SLICES):
                waiting.append((first, pool.submit(work, first)))
                if len(waiting) > THREADS:
                    yield next_done()
            while waiting:
                yield next_done()
        finally:
            pool.shutdown(cancel_futures=True)


def segment_volume(predictor: Predictor, slices: np.ndarray) -> np.ndarray:
    """Return the label map of a scan: (depth, height, width) HU → (depth, height, width) uint8, by `labels_of`."""
    label_map = np.empty(slices.shape, np.uint8)
    for first, probability in probability_batches(predictor, slices):
        label_map[first : first + len(probability)] = labels_of(probability)
    return label_map


def labels_of(probability: np.ndarray) -> np.ndarray:
    """Return labels, (B, H, W) uint8 or boolean: 1 liver, 2 tumour; THRESHOLD or more of a probability is enough.

    A tumour is one inside the liver only.

    probability: of liver (B, H, W), or of liver with its tumours and of tumour (B, H, W, 2).
    """
    if probability.ndim == 3:
        return probability >= THRESHOLD
    liver = probability[..., 0] >= THRESHOLD
    return liver.astype(np.uint8) + (liver & (probability[..., 1] >= THRESHOLD))


@dataclass(frozen=True)
class Segmented:
    """What became of one scan: its statistics and number of slices, or the error that stopped it."""

    scan: Path
    output: Path
    statistics: dict[str, Any] | None = None
    slices: int = 0
    error: Exception | None = None


def segment_files(
    load: Callable[[], Predictor],
    scans: Sequence[Path],
    outputs: Sequence[Path],
    postprocessing: str = "none",
    tumours: bool = False,
    probabilities: bool = False,
    hu_offset: int = 0,
) -> Iterator[Segmented]:
    """Segment scans to label-map files on their own grids; yield what became of each, in order.

    load: gives the predictor; it is called while the first scan is read.
    scans: NIfTI files or DICOM series folders. outputs: a .nii or .nii.gz each. postprocessing: of the experiment.
    tumours: whether the model looks for them. probabilities: write them too, as `probability_paths` names them.
    hu_offset: added to every voxel.

    A scan that cannot be read, predicted or written does not stop the others. While one scan is predicted, another
    thread writes the last one and then reads the next one: no more than two are in memory.
    """
    with ThreadPoolExecutor(1) as aside:
        waiting: Future[Segmented] | None = None
        following = [aside.submit(_read, scan, hu_offset) for scan in scans[:1]]
        try:
            predictor = load()
            for number, (scan, output) in enumerate(zip(scans, outputs, strict=True), start=1):
                reading = following.pop()
                following += [aside.submit(_read, scan, hu_offset) for scan in scans[number : number + 1]]
                try:
                    volume = reading.result()
                    what = f"segmenting {scan.name} ({number} of {len(scans)}), batches"
                    maps = _predict(predictor, volume.slices, probabilities, what)
                    done = aside.submit(_finish, scan, output, volume, maps, postprocessing, tumours)
                    del volume, maps
                except FAILURES as error:
                    done = Future()
                    done.set_result(Segmented(scan, output, error=error))
                if waiting:
                    yield waiting.result()
                waiting = done
            if waiting:
                yield waiting.result()
        finally:
            aside.shutdown(cancel_futures=True)


def _read(scan: Path, hu_offset: int) -> Volume:
    """Return a scan that may be segmented: what one of them makes any reader raise is that scan's failure, named."""
    try:
        volume = read_scan(scan)
    except FAILURES:
        raise
    except Exception as error:  # nibabel, pydicom and decoders have no common base class
        raise DataError(f"{scan}: cannot be read: {type(error).__name__}: {error}") from error
    require_image(volume.voxels, str(scan))
    if not hu_offset:
        return volume
    # float32 holds every sum of two 16-bit numbers.
    return replace(volume, voxels=volume.voxels.astype(np.float32) + np.float32(hu_offset))


def _predict(
    predictor: Predictor, slices: np.ndarray, probabilities: bool, what: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return label map (D, H, W) and, if asked for, the probability of each region as files hold it."""
    label_map, stored = np.empty(slices.shape, np.uint8), list[np.ndarray]()
    for first, probability in track(probability_batches(predictor, slices), what, -(-len(slices) // BATCH_SLICES)):
        some = slice(first, first + len(probability))
        label_map[some] = labels_of(probability)
        of_regions = probability[..., np.newaxis] if probability.ndim == 3 else probability
        for region in range(of_regions.shape[-1] if probabilities else 0):
            if first == 0:
                stored.append(np.empty(slices.shape, np.uint16))
            stored[region][some] = as_stored_probability(of_regions[..., region])
    return label_map, stored


def _finish(
    scan: Path,
    output: Path,
    volume: Volume,
    maps: tuple[np.ndarray, list[np.ndarray]],
    postprocessing: str,
    tumours: bool,
) -> Segmented:
    """Mend, measure and write what was predicted of one scan; the label map last, so that it stands for all."""
    label_map, stored = maps
    try:
        label_map = postprocess(label_map, postprocessing)
        found = {"scan": str(scan), "label_map": str(output), **statistics(volume, label_map, tumours)}
        write_atomic(statistics_path(output), json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        for path, probability in zip(probability_paths(output), stored, strict=False):
            write_probability_map(path, probability.transpose(2, 1, 0), volume.header)
        write_label_map(output, label_map.transpose(2, 1, 0), volume.header)
    except FAILURES as error:
        return Segmented(scan, output, error=error)
    return Segmented(scan, output, found, len(label_map))


def statistics_path(label_map: Path) -> Path:
    """Return where the statistics of a label map lie: case.nii.gz → case.json."""
    return label_map.with_name(f"{case_id_of(label_map)}.json")


def probability_path(label_map: Path) -> Path:
    """Return where the probabilities of liver beside a label map lie: case.nii.gz → case-probability.nii.gz."""
    return probability_paths(label_map)[0]


def probability_paths(label_map: Path) -> list[Path]:
    """Return where the probabilities of liver, and of tumour, lie: the second is case-tumour-probability.nii.gz."""
    return [label_map.with_name(f"{case_id_of(label_map)}{of}-probability.nii.gz") for of in ("", "-tumour")]
