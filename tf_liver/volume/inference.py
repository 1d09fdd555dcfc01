"""A whole scan through the network, a batch of slices at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tf_liver.data.slices import THRESHOLD

# HU slices (B, H, W) float32 → probability (B, H, W) float32, as SlicePredictor.
Predictor = Callable[[np.ndarray], Any]
BATCH_SLICES = 16


def probability_batches(predictor: Predictor, slices: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first slice, probability (b, H, W) float32) over a whole scan.

    slices: (depth, height, width) HU. Memory is bounded by one batch.

    Raises:
        ValueError: the network gave NaN.
    """
    for first in range(0, len(slices), BATCH_SLICES):
        batch = slices[first : first + BATCH_SLICES].astype(np.float32)
        probability = np.asarray(predictor(batch))
        if np.isnan(probability).any():
            raise ValueError(
                f"probabilities must be numbers. Received: NaN in slices {first} to {first + len(batch) - 1}"
            )
        yield first, probability


def segment_volume(predictor: Predictor, slices: np.ndarray) -> np.ndarray:
    """Return the label map of a scan: (depth, height, width) HU → (depth, height, width) uint8, 1 liver.

    A probability of THRESHOLD or more is liver.
    """
    label_map = np.empty(slices.shape, np.uint8)
    for first, probability in probability_batches(predictor, slices):
        label_map[first : first + len(probability)] = probability >= THRESHOLD
    return label_map
