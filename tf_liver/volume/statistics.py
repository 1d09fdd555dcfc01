"""What a label map says in millilitres, millimetres and HU, and what to doubt about it. No TensorFlow."""

from typing import Any

import numpy as np
from scipy import ndimage

from tf_liver.data import TUMOUR
from tf_liver.data.nifti import Volume
from tf_liver.data.plausibility import odd_values
from tf_liver.data.verification import placeholder
from tf_liver.volume.postprocess import bounding_box

LIVER = 1
# Beyond these it is no liver of a grown patient, tumours included; a child's may have less.
LIVER_ML = (300, 5000)
MOST_PIECES = 20  # after postprocessing, or without
BODY_ABOVE_HU = -200
# Of the body's width, from the patient's left: the middle of 129 patients' livers lies at 0.51 to 0.89.
LEFT_BELOW = 0.48
AXES = ("left_right", "posterior_anterior", "inferior_superior")


def statistics(volume: Volume, label_map: np.ndarray, tumours: bool) -> dict[str, Any]:
    """Return what is measured of a predicted label map, ready for JSON.

    label_map: (D, H, W) uint8 on the volume's canonical grid. tumours: whether the model looks for them at all; if not,
    what is said of tumours is None.

    liver_ml, liver_mean_hu, extent_mm: of labels 1 and 2 together. extent_mm runs along the axes of the grid, from the
    first voxel's near side to the last one's far side. tumour_count: components of label 2, voxels being neighbours by
    their faces. warnings: what makes the figures doubtful.
    """
    box = bounding_box(label_map)  # a mask would take as much memory again
    found: dict[str, Any] = {
        "liver_ml": 0.0,
        "liver_mean_hu": None,
        "extent_mm": None,
        "tumour_ml": 0.0 if tumours else None,
        "tumour_count": 0 if tumours else None,
        "tumour_mean_hu": None,
        "spacing_mm": volume.spacing_mm,
        "warnings": _warnings(volume, label_map.shape, box),
    }
    found["warnings"] += odd_values(volume.voxels)
    if box is None:
        return found
    labels, hu = label_map[box], volume.slices[box]
    lengths = zip(AXES, volume.spacing_mm, labels.shape[::-1], strict=True)
    found["extent_mm"] = {name: spacing * length for name, spacing, length in lengths}
    found["liver_ml"], found["liver_mean_hu"] = _measured(labels, hu, LIVER, volume.voxel_ml)
    found["warnings"] += _odd_liver(volume, label_map, box, found["liver_ml"])
    if tumours:
        found["tumour_ml"], found["tumour_mean_hu"] = _measured(labels, hu, TUMOUR, volume.voxel_ml)
        found["tumour_count"] = int(ndimage.label(labels == TUMOUR)[1])
    return found


def _measured(labels: np.ndarray, hu: np.ndarray, lowest: int, voxel_ml: float) -> tuple[float, float | None]:
    """Return volume and mean HU of all labels from `lowest` on; slice by slice, which needs no copy of the scan."""
    number, total = 0, 0.0
    for one_labels, one_hu in zip(labels, hu, strict=True):
        there = one_hu[one_labels >= lowest]
        number += there.size
        total += float(there.sum(dtype=np.float64))
    return number * voxel_ml, total / number if number else None


def _odd_liver(volume: Volume, label_map: np.ndarray, box: tuple[slice, ...], liver_ml: float) -> list[str]:
    """Return what no liver looks like: its size, where all of it is in the scan, its pieces, its side."""
    low, high = LIVER_ML
    said, whole = [], box[0].start > 0 and box[0].stop < len(label_map)
    if not placeholder(volume) and (liver_ml > high or (whole and liver_ml < low)):
        said.append(f"a liver has {low} to {high:,} ml. Received: {liver_ml:,.0f} ml")
    pieces = int(ndimage.label(label_map[box][:, ::2, ::2] > 0)[1])
    if pieces > MOST_PIECES:
        said.append(f"a liver is one piece. Received: {pieces}")
    middle = (box[0].start + box[0].stop) // 2
    across = np.flatnonzero((volume.slices[middle] > max(BODY_ABOVE_HU, volume.voxels.min())).any(axis=0))
    columns = np.flatnonzero(label_map[middle].any(axis=0))
    if len(across) and len(columns):
        # Columns run from the patient's left to the right.
        place = (columns.mean() - across[0]) / max(1, across[-1] - across[0])
        if place < LEFT_BELOW:
            said.append("the liver lies on the left: the header's orientation may be wrong")
    return said


def _warnings(volume: Volume, shape: tuple[int, ...], box: tuple[slice, ...] | None) -> list[str]:
    why = placeholder(volume)
    said = [*volume.doubts, *([f"{why}; millilitres and millimetres mean nothing"] if why else [])]
    if box is None:
        return ["no liver found", *said]
    ends = [
        end
        for name, along, length in zip(AXES, box[::-1], shape[::-1], strict=True)
        for end, touched in zip(name.split("_"), (along.start == 0, along.stop == length), strict=True)
        if touched
    ]
    return ([f"liver touches the scan's edge: {', '.join(ends)}"] if ends else []) + said
