"""Which slices there are, which train, and in what order: the same from NIfTI files and from the prepared store."""

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tf_liver.data import DataError, DataWarning
from tf_liver.data.cases import Case
from tf_liver.data.nifti import read_label
from tf_liver.data.slices import has_tumour, positive_slices
from tf_liver.progress import track


@dataclass(frozen=True)
class SliceIndex:
    """Depth of each case, which of its slices hold foreground, and which of those hold tumour."""

    cases: tuple[Case, ...]
    depths: tuple[int, ...]
    positives: tuple[np.ndarray, ...]
    tumours: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        for case, chosen in zip(self.cases, self.positives, strict=True):
            if not len(chosen):
                text = f"{case.label}: case {case.case_id} holds no liver; it adds no liver slices"
                warnings.warn(text, DataWarning, stacklevel=3)
        if not sum(map(len, self.positives)):
            raise DataError(
                f"{self.cases[0].label.parent}: a slice with liver is needed. Received: {len(self.cases)} cases without"
            )


def index_labels(cases: Sequence[Case], workers: int) -> SliceIndex:
    """Read every label once and note which of its slices hold liver, and tumour.

    Raises:
        DataError: a label that cannot be read, or no positive slice in any case.
    """

    def look(case: Case) -> tuple[int, np.ndarray, np.ndarray]:
        slices = read_label(case.label).slices
        positives = positive_slices(slices)
        return len(slices), positives, np.array([z for z in positives if has_tumour(slices[z])], np.int64)

    with ThreadPoolExecutor(workers) as pool:
        found = list(track(pool.map(look, cases), "reading labels", len(cases)))
    depths, positives, tumours = zip(*found, strict=True) if found else ((), (), ())
    return SliceIndex(tuple(cases), depths, positives, tumours)


def liver_samples(index: SliceIndex) -> np.ndarray:
    """Return the liver slices in fixed order: (n, 3) int64 of case number, slice number, 0."""
    return _rows(index.positives)


def _rows(slices: Sequence[np.ndarray]) -> np.ndarray:
    rows = [(case, z, 0) for case, chosen in enumerate(slices) for z in chosen]
    return np.array(rows, np.int64).reshape(-1, 3)


def epoch_samples(
    index: SliceIndex, negative_ratio: float, seed: int, epoch: int, tumour_ratio: float = 0.0
) -> np.ndarray:
    """Return what one epoch trains on, shuffled over everything: (n, 3) int64.

    Columns: case number, slice number, seed of the slice's augmentation. All liver slices;
    `negative_ratio` times as many liver-free ones, drawn anew in each epoch, as far as there are some; and each slice
    with tumour `tumour_ratio` times more, of which a fraction is drawn anew in each epoch.
    The same arguments give the same rows, whoever asks, so any position of any epoch can be resumed.
    """
    rng = np.random.default_rng((seed, epoch))
    samples = liver_samples(index)
    if wanted := _negatives(index, negative_ratio):
        free = [
            np.setdiff1d(np.arange(depth), there) for depth, there in zip(index.depths, index.positives, strict=True)
        ]
        samples = np.concatenate([samples, rng.choice(_rows(free), wanted, replace=False)])
    if wanted := _repeats(index, tumour_ratio):
        tumours = _rows(index.tumours)
        whole, rest = divmod(wanted, len(tumours))
        samples = np.concatenate([samples, np.tile(tumours, (whole, 1)), rng.choice(tumours, rest, replace=False)])
    samples[:, 2] = rng.integers(2**31, size=len(samples))
    return rng.permutation(samples)


def epoch_length(index: SliceIndex, negative_ratio: float, tumour_ratio: float = 0.0) -> int:
    """Return the number of slices in one epoch."""
    return sum(map(len, index.positives)) + _negatives(index, negative_ratio) + _repeats(index, tumour_ratio)


def _negatives(index: SliceIndex, ratio: float) -> int:
    liver = sum(map(len, index.positives))
    return min(round(ratio * liver), sum(index.depths) - liver)


def _repeats(index: SliceIndex, ratio: float) -> int:
    return round(ratio * sum(map(len, index.tumours)))


def steps_per_epoch(index: SliceIndex, negative_ratio: float, batch_size: int, tumour_ratio: float = 0.0) -> int:
    """Return the number of batches in one epoch, the last and smaller one included."""
    return math.ceil(epoch_length(index, negative_ratio, tumour_ratio) / batch_size)
