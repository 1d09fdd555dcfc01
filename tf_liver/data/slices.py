"""What happens to a slice between HU and the network: the one truth for train, predict and serving.

`normalise` is one function for NumPy (training) and TensorFlow (prediction, serving). It is a clip followed by a
linear scale; a resize commutes with the scale, so the fast training path may resize between the two.
"""

from typing import Any

import numpy as np

from tf_liver.data import TUMOUR
from tf_liver.experiment import Experiment

# The encoder halves five times; its decoder can only double back sizes that 2⁵ divides.
SIZE_MULTIPLE = 32
THRESHOLD = 0.5


def normalise(images_hu: Any, experiment: Experiment, xp: Any = np) -> Any:
    """Bring HU to the network's range.

    clip_max: negatives to 0, then each slice divided by its own maximum; where that is 0 the slice stays 0.
    window: `window_hu` clipped and scaled to [0, 1].

    images_hu: (…, H, W), any real type for NumPy, float32 for TensorFlow.
    xp: numpy, or tensorflow.experimental.numpy for tensors.
    Returns float32 of the same shape.
    """
    clipped = clip_hu(xp.asarray(images_hu, dtype=np.float32), experiment, xp)
    return scale(clipped, xp.max(clipped, axis=(-2, -1), keepdims=True), experiment, xp)


def clip_hu(images_hu: Any, experiment: Experiment, xp: Any = np, **out: np.ndarray) -> Any:
    """Return HU clipped as the normalisation asks, in the type that came in; `out=` as in NumPy."""
    kind = images_hu.dtype.as_numpy_dtype if xp is not np else images_hu.dtype.type
    low, high = experiment.window_hu
    if experiment.normalisation == "clip_max":
        # An upper end that nothing passes: NumPy clips int16 seven times as fast as it takes the maximum with 0.
        low, high = 0.0, np.iinfo(kind).max if issubclass(kind, np.integer) else np.inf
    return xp.clip(images_hu, kind(low), kind(high), **out)


def scale(clipped: Any, peak: Any, experiment: Experiment, xp: Any = np, **out: np.ndarray) -> Any:
    """Scale clipped float32 HU to the network's range; `peak` is each slice's maximum at its native size."""
    if experiment.normalisation == "window":
        low, high = (np.float32(end) for end in experiment.window_hu)
        return xp.divide(xp.subtract(clipped, low, **out), high - low, **out)
    return xp.divide(clipped, xp.where(peak > 0, peak, np.float32(1)), **out)


def neighbourhood(first: int, last: int, neighbours: int, depth: int) -> np.ndarray:
    """Return the numbers of the slices first to last, the latter excluded, with so many above and below.

    Beyond the ends of a scan, of `depth` slices, its first and last slice are repeated.
    """
    return np.clip(np.arange(first - neighbours, last + neighbours), 0, depth - 1)


def foreground(label: np.ndarray) -> np.ndarray:
    """Return the liver mask (boolean) of a label map: liver and its tumours, labels 1 and 2."""
    return label > 0


def target(label: np.ndarray, experiment: Experiment) -> np.ndarray:
    """Return what is learnt of a label map, a new array uint8: 0 and 1, or labels 0, 1, 2 where tumours are learnt."""
    return (label if experiment.task == "tumour" else foreground(label)).astype(np.uint8)


def positive_slices(label_slices: np.ndarray) -> np.ndarray:
    """Return the indices of the slices of a (depth, height, width) label map that hold foreground."""
    return np.flatnonzero(foreground(label_slices.max(axis=(1, 2))))


def has_tumour(label: np.ndarray) -> bool:
    """Say whether a label map, or a slice of one, holds label 2."""
    return bool(label.max() == TUMOUR)
