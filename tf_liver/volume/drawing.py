"""A slice as a grey picture and a mask as an SVG path, in tenths of a millimetre; and where a mask lies."""

import base64

import cv2
import numpy as np
from contourpy import contour_generator

from tf_liver.volume.overlay import grey_of

PER_MM = 10  # whole tenths: fine enough for a contour, and short
MAX_PIXELS = 640
WEBP_QUALITY = 80


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask, (H, W) or (W, H, D); all of the grid where it is empty."""
    box = []
    for counts in counts_across(mask):
        held = np.flatnonzero(counts)
        box.append(slice(int(held[0]), int(held[-1]) + 1) if held.size else slice(0, len(counts)))
    return tuple(box)


def counts_across(mask: np.ndarray) -> list[np.ndarray]:
    """Return how many voxels of a boolean mask lie in each slice across each axis.

    NumPy sums a volume's slow axis and counts whole slices ten times as fast as it sums along its fast axis.
    """
    if mask.ndim == 2:
        return [np.count_nonzero(mask, axis=axis) for axis in (1, 0)]
    flat = np.add.reduce(mask.view(np.uint8), axis=2, dtype=np.int32)
    return [flat.sum(axis=1), flat.sum(axis=0), np.array([np.count_nonzero(plane) for plane in mask.T])]


def outline(mask: np.ndarray, spacing_mm: tuple[float, float]) -> str:
    """Return the SVG path around a (H, W) mask, holes included; empty where the mask is.

    spacing_mm: of columns and rows. The path runs half-way between the centres of voxels inside and outside.
    """
    rows, columns = bounding_box(mask)
    if not mask.any():
        return ""
    lines = contour_generator(z=np.pad(mask[rows, columns], 1).astype(np.float64)).lines(0.5)
    # Corner (0, 0) of the picture is half a voxel before the first centre; the padding adds one voxel.
    start = np.array([columns.start, rows.start]) - 0.5
    scale = np.array(spacing_mm) * PER_MM
    return "".join(_path(np.rint((_corners(np.asarray(line)) + start) * scale).astype(int)) for line in lines)


def _corners(line: np.ndarray) -> np.ndarray:
    """Drop the points of a closed line at which it goes straight on."""
    steps = np.diff(line, axis=0, prepend=line[-2:-1])
    return line[:-1][(steps[:-1] != steps[1:]).any(axis=1)]


def _path(points: np.ndarray) -> str:
    (x, y), steps = points[0], np.diff(points, axis=0)
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in steps) + "z"


def grey_webp(hu: np.ndarray) -> str:
    """Return a HU slice as a grey WebP in a data URI, no larger than MAX_PIXELS."""
    grey = (grey_of(hu) * 255).astype(np.uint8)
    if max(grey.shape) > MAX_PIXELS:
        ratio = MAX_PIXELS / max(grey.shape)
        grey = cv2.resize(grey, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".webp", np.ascontiguousarray(grey), [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    assert done
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
