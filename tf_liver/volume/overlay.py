"""Pictures of a slice with its contours: reference green, prediction magenta, where they agree white."""

import numpy as np

GREEN, MAGENTA, WHITE = (0, 220, 70), (255, 40, 220), (255, 255, 255)
DISPLAY_PIXELS = 320
DISPLAY_WINDOW_HU = (-160.0, 240.0)  # the usual abdominal window: level 40, width 400


def contour(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a (H, W) mask that touch its outside by an edge; outside the image is outside."""
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask.astype(bool) & ~inside


def overlay(grey: np.ndarray, reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Draw both contours on a slice.

    grey: (H, W) in [0, 1]. reference, prediction: (H, W) masks, rows towards anterior, columns towards the
    patient's right. Returns (H', W', 3) uint8, enlarged by a whole factor to DISPLAY_PIXELS or more, as
    radiologists look at it: anterior up, the patient's right at the left.
    """
    zoom = -(-DISPLAY_PIXELS // max(grey.shape))
    grey, reference, prediction = (a.repeat(zoom, 0).repeat(zoom, 1) for a in (grey, reference, prediction))
    picture = np.repeat((np.clip(grey, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    expected, found = contour(reference), contour(prediction)
    picture[expected] = GREEN
    picture[found] = MAGENTA
    picture[expected & found] = WHITE
    return picture[::-1, ::-1]


def grey_of(slice_hu: np.ndarray) -> np.ndarray:
    """Return a HU slice in [0, 1], by the abdominal window."""
    low, high = DISPLAY_WINDOW_HU
    return (np.clip(slice_hu.astype(np.float32), low, high) - low) / (high - low)


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures of unequal size in one row, (H, W, 3) uint8, with a little black between them."""
    height = max(p.shape[0] for p in pictures)
    padded = [np.pad(p, ((0, height - p.shape[0]), (0, 4), (0, 0))) for p in pictures]
    return np.concatenate(padded, axis=1)[:, :-4]
