"""Tumours one by one, and as a share of the liver, as the LiTS challenge scores them (Bilic 2023).

A lesion is a connected component of label 2, voxels being neighbours by their faces. Where one predicted lesion covers
several of the reference, those count as one, and so do several predicted ones that lie on one: what is joined is not
punished twice. A lesion is found when the IoU with its predicted counterpart is above 0.5; those of the reference that
are not are missed, and predicted ones that found nothing are invented.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tf_liver.data import TUMOUR
from tf_liver.volume import scores

MIN_IOU = 0.5


@dataclass(frozen=True)
class Lesions:
    """How many lesions were found, missed and invented, and the LiTS scores of each that was found."""

    found: int
    missed: int
    invented: int
    of_found: tuple[dict[str, float], ...]


def match_lesions(reference: np.ndarray, prediction: np.ndarray, step_mm: np.ndarray) -> Lesions:
    """Compare the lesions of two (W, H, D) masks of tumour; step_mm as in `scores.score_region`."""
    reference, prediction = scores.crop(reference, prediction)
    (true, true_count), (claimed, claimed_count) = ndimage.label(reference), ndimage.label(prediction)
    both = reference & prediction
    overlap = np.zeros((true_count, claimed_count), np.int64)
    np.add.at(overlap, (true[both] - 1, claimed[both] - 1), 1)
    true_group, claimed_group = _groups(overlap)
    true, claimed = np.append(0, true_group)[true], np.append(0, claimed_group)[claimed]
    ious = _ious(true, claimed, true_count + claimed_count + 1)
    found = [group for group in np.unique(true_group).tolist() if ious[group] > MIN_IOU]
    true_boxes, claimed_boxes = ndimage.find_objects(true), ndimage.find_objects(claimed)
    pairs = []
    for group in found:
        box = _around(true_boxes[group - 1], claimed_boxes[group - 1])
        pairs.append(_score(true[box] == group, claimed[box] == group, step_mm))
    missed, invented = (len(np.unique(groups)) - len(found) for groups in (true_group, claimed_group))
    return Lesions(len(found), missed, invented, tuple(pairs))


def _groups(overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a group number, from 1, for each reference and each predicted lesion; counterparts share theirs.

    overlap: (reference lesions, predicted lesions) voxels in common.
    """
    true_count, claimed_count = overlap.shape
    true_group, claimed_group = 1 + np.arange(true_count), 1 + true_count + np.arange(claimed_count)
    if not overlap.any():
        return true_group, claimed_group
    # Reference lesions that the same predicted lesion covers best become one, under the first one's number …
    touched, best = overlap.any(axis=1), overlap.argmax(axis=1)
    for claim in np.unique(best[touched]):
        covered = np.flatnonzero(touched & (best == claim))
        true_group[covered] = true_group[covered[0]]
    # … and each predicted lesion goes to the group that it overlaps most.
    joined = np.zeros_like(overlap)
    np.add.at(joined, true_group - 1, overlap)
    hits = joined.any(axis=0)
    claimed_group[hits] = 1 + joined.argmax(axis=0)[hits]
    return true_group, claimed_group


def _ious(true: np.ndarray, claimed: np.ndarray, groups: int) -> np.ndarray:
    """Return the IoU of each group's reference and predicted voxels, (groups,) float64."""
    common = np.bincount(true[true == claimed], minlength=groups)
    either = np.bincount(true.ravel(), minlength=groups) + np.bincount(claimed.ravel(), minlength=groups) - common
    return common / np.maximum(either, 1)


def _around(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the box around two boxes."""
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _score(reference: np.ndarray, prediction: np.ndarray, step_mm: np.ndarray) -> dict[str, float]:
    counts = scores.count(reference, prediction)
    volumes = {
        "dice": scores.dice(counts),
        "voe": 1 - scores.iou(counts),
        "rvd": scores.relative_volume_difference(counts),
    }
    distances = scores.surface_scores(reference, prediction, step_mm)
    return volumes | {name: distances[name] for name in ("assd_mm", "rmsd_mm", "msd_mm")}


def tumour_burden(label_map: np.ndarray) -> float:
    """Return the tumours' share of the liver, tumours included; NaN without a liver."""
    liver = np.count_nonzero(label_map)
    return float(np.count_nonzero(label_map == TUMOUR) / liver) if liver else math.nan
