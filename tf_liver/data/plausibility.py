"""Whether the values of a scan are HU of a CT at all: one set of rules for `verify`, which tells, and for `predict`."""

from collections.abc import Iterator

import numpy as np

from tf_liver.data import DataError

# 12-bit CT is stored with the intercept -1024; what lies lower is a scanner's padding (-2000, -2048, -3024).
LOWEST_HU = -1024
# Around and inside every patient there is air (-1000) and some lung or bowel gas; a minimum above this was clipped.
AIR_BELOW_HU = -500
# Spongy bone reaches 300, cortical bone 1000 and more; every slice through a liver shows spine and ribs.
BONE_ABOVE_HU = 300
# 12 bits end at 3071; only metal on an extended scale, or something that is no HU, lies beyond.
HIGHEST_HU = 4000
# Fat, water, muscle, blood and most organs: a large part of every body, whatever the phase.
SOFT_HU = (-150, 250)
# What 12-bit CT is shifted by to have no negative values, and what a reader takes off twice.
OFFSET_HU = 1024
# A label map is made of areas of one value; noise makes most neighbours of a CT differ (0.01 to 0.19 are equal in 129
# patients, of whom 126 are clipped to 8 bits).
EQUAL_NEIGHBOURS, LARGEST_LABEL = 0.9, 255


def odd_values(voxels: np.ndarray) -> Iterator[str]:
    """Yield what is odd about the values of a whole scan, a sentence each."""
    low, high = (float(v) for v in (voxels.min(), voxels.max()))
    if offset := _offset(voxels):
        yield (
            f"HU look shifted by {offset:+d}: soft tissue lies near {offset}, not near 0. "
            f"`predict --hu-offset {-offset}` takes that off. Received: {low:g} to {high:g}"
        )
    elif low > AIR_BELOW_HU or high < BONE_ABOVE_HU:
        yield (
            f"HU looks clipped or scaled: a CT holds air (below {AIR_BELOW_HU}) and bone (above {BONE_ABOVE_HU}). "
            f"Received: {low:g} to {high:g}"
        )
    if low < LOWEST_HU:
        share = float(np.count_nonzero(voxels < LOWEST_HU)) / voxels.size
        yield (
            f"below air ({LOWEST_HU} HU) in {100 * share:.2g} % of the voxels: a scanner's padding, or a "
            f"resampler's overshoot. Received: {low:g}"
        )
    if high > HIGHEST_HU:
        yield f"HU above {HIGHEST_HU}: metal, or no HU. Received: {high:g}"


def _offset(voxels: np.ndarray) -> int:
    """Return what has been added to the HU, about ±OFFSET_HU, or 0: by where soft tissue lies, and what lies below it.

    Below soft tissue a CT holds lung, bowel gas and the edges of the body; padding and shifted air leave a gap there.
    """
    some = voxels[::4, ::4, :: max(1, voxels.shape[2] // 64)]

    def share(low: int, high: int) -> float:
        return float(np.count_nonzero((some > low) & (some < high))) / some.size

    low, high = SOFT_HU
    if share(low + OFFSET_HU, high + OFFSET_HU) > 0.1 and share(-900, low) < 0.002:
        return OFFSET_HU
    if share(low, high) < 0.02 and share(low - OFFSET_HU, high - OFFSET_HU) > 0.1 and voxels.min() < -OFFSET_HU - 800:
        return -OFFSET_HU
    return 0


def require_image(voxels: np.ndarray, name: str) -> None:
    """Raise DataError if the voxels are a label map, which segmentation would turn into litres of liver.

    A label map: whole numbers from 0 to LARGEST_LABEL, more than one, in areas of one value.
    """
    low, high = (float(v) for v in (voxels.min(), voxels.max()))
    if low < 0 or high > LARGEST_LABEL or low == high:
        return
    some = voxels[:, :, :: max(1, voxels.shape[2] // 64)]
    pairs = (some[1:] > 0) & (some[:-1] > 0)
    equal = float(np.count_nonzero((some[1:] == some[:-1]) & pairs)) / max(1, int(np.count_nonzero(pairs)))
    if equal > EQUAL_NEIGHBOURS and np.array_equal(some, np.rint(some)):
        raise DataError(
            f"{name}: must be a CT, not a label map. Received: whole numbers from {low:g} to {high:g}, "
            f"{100 * equal:.0f} % of the neighbours equal"
        )
