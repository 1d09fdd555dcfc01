"""What is mended in a label map once all its slices are there. NumPy and SciPy only.

A component is a set of foreground voxels (liver and its tumours) that are joined face to face, in 3-D. Tumours stay as
far as they lie in what stays: there may be many, so none is judged by its size.

none            nothing: what the network says, slice by slice
largest         the largest component stays, all others become background
largest_filled  and background that the component encloses on all sides becomes liver, label 1
"""

import numpy as np
from scipy import ndimage

from tf_liver.experiment import POSTPROCESSING


def postprocess(label_map: np.ndarray, kind: str) -> np.ndarray:
    """Return a mended copy of a label map: (D, H, W) uint8 → the same; `kind` is an experiment's `postprocessing`.

    Where there is nothing to mend it is the label map itself, not copied.

    Components of one size: the first in memory order stays. An empty label map stays empty.
    """
    if kind not in POSTPROCESSING:
        raise ValueError(f"postprocessing: must be one of {', '.join(POSTPROCESSING)}. Received: {kind!r}")
    if kind == "none" or (box := bounding_box(label_map)) is None:
        return label_map
    inside = label_map[box]
    kept = largest_component(inside > 0)
    mended = np.where(kept, inside, 0)
    if kind == "largest_filled":
        mended[enclosed(kept)] = 1
    out = np.zeros_like(label_map)
    out[box] = mended
    return out


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box around what is not 0, as a slice along each axis; None if there is nothing."""
    along = [mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)) for axis in range(mask.ndim)]
    if not along[0].any():
        return None
    ends = [np.flatnonzero(there)[[0, -1]] for there in along]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest component of a boolean mask that is not empty."""
    components, number = ndimage.label(mask)
    if number == 1:
        return mask
    sizes = np.bincount(components.ravel())
    return components == 1 + sizes[1:].argmax()


def enclosed(mask: np.ndarray) -> np.ndarray:
    """Return the background voxels that no face-to-face path through background joins to the outside."""
    around = np.pad(~mask, 1, constant_values=True)
    components, _ = ndimage.label(around)
    inner = (slice(1, -1),) * mask.ndim
    return ~mask & (components != components.flat[0])[inner]
