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
from tf_liver.data.slices import positive_slices
from tf_liver.progress import track


@dataclass(frozen=True)
class SliceIndex:
    """Depth of each case, and which of its slices hold foreground."""

    cases: tuple[Case, ...]
    depths: tuple[int, ...]
    positives: tuple[np.ndarray, ...]

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
    """Read every label once and note its liver-positive slices.

    Raises:
        DataError: a label that cannot be read, or no positive slice in any case.
    """

    def positives(case: Case) -> tuple[int, np.ndarray]:
        slices = read_label(case.label).slices
        return len(slices), positive_slices(slices)

    with ThreadPoolExecutor(workers) as pool:
        found = list(track(pool.map(positives, cases), "reading labels", len(cases)))
    return SliceIndex(tuple(cases), tuple(d for d, _ in found), tuple(p for _, p in found))


def liver_samples(index: SliceIndex) -> np.ndarray:
    """Return the liver slices in fixed order: (n, 3) int64 of case number, slice number, 0."""
    rows = [(case, z, 0) for case, chosen in enumerate(index.positives) for z in chosen]
    return np.array(rows, np.int64).reshape(-1, 3)


def epoch_samples(index: SliceIndex, negative_ratio: float, seed: int, epoch: int) -> np.ndarray:
    """Return what one epoch trains on, shuffled over everything: (n, 3) int64.

    Columns: case number, slice number, seed of the slice's augmentation. All liver slices, and
    `negative_ratio` times as many liver-free ones, drawn anew in each epoch, as far as there are some.
    The same arguments give the same rows, whoever asks, so any position of any epoch can be resumed.
    """
    rng = np.random.default_rng((seed, epoch))
    samples = liver_samples(index)
    if wanted := epoch_length(index, negative_ratio) - len(samples):
        negatives = [
            (case, z, 0)
            for case, chosen in enumerate(index.positives)
            for z in np.setdiff1d(np.arange(index.depths[case]), chosen)
        ]
        samples = np.concatenate([samples, rng.choice(np.array(negatives), wanted, replace=False)])
    samples[:, 2] = rng.integers(2**31, size=len(samples))
    return rng.permutation(samples)


def epoch_length(index: SliceIndex, negative_ratio: float) -> int:
    """Return the number of slices in one epoch."""
    liver = sum(map(len, index.positives))
    return liver + min(round(negative_ratio * liver), sum(index.depths) - liver)


def steps_per_epoch(index: SliceIndex, negative_ratio: float, batch_size: int) -> int:
    """Return the number of batches in one epoch, the last and smaller one included."""
    return math.ceil(epoch_length(index, negative_ratio) / batch_size)
