"""What happens to a slice between HU and the network, and back: the one truth for train, predict and serving.

Training runs `normalise` on NumPy arrays and albumentations' resize; everything else runs `network_input` in
TensorFlow. `normalise` is one function for both; a test holds the two resizes together.
"""

from typing import Any

import numpy as np
import tensorflow as tf

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
    images = xp.asarray(images_hu, dtype=np.float32)
    if experiment.normalisation == "window":
        low, high = (np.float32(end) for end in experiment.window_hu)
        return (xp.clip(images, low, high) - low) / (high - low)
    positive = xp.maximum(images, np.float32(0))
    peak = xp.max(positive, axis=(-2, -1), keepdims=True)
    return positive / xp.where(peak > 0, peak, np.float32(1))


def network_input(images_hu: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """Normalise slices of any size and bring them to the network's.

    images_hu: (B, H, W) float32. Returns (B, S, S, 1) float32 for image_size S, or for native size
    (B, H', W', 1), padded below and at the right with the normalised value of air to a multiple of 32.
    """
    images = normalise(images_hu, experiment, tf.experimental.numpy)[..., tf.newaxis]
    if experiment.image_size:
        # Half-pixel centres without antialiasing: what cv2.INTER_LINEAR, albumentations' resize, does.
        return tf.image.resize(images, (experiment.image_size,) * 2, method="bilinear", antialias=False)
    height, width = tf.unstack(tf.shape(images)[1:3])
    return tf.pad(images, [(0, 0), (0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE), (0, 0)])


def native_probability(probability: tf.Tensor, height: tf.Tensor, width: tf.Tensor, image_size: int) -> tf.Tensor:
    """Undo what `network_input` did to the size.

    probability: (B, S, S, C) float32. Returns (B, height, width, C) float32.
    """
    if image_size:
        return tf.image.resize(probability, (height, width), method="bilinear", antialias=False)
    return probability[:, :height, :width]


def foreground(label: np.ndarray) -> np.ndarray:
    """Return the liver mask (boolean) of a label map: liver and its tumours, labels 1 and 2."""
    return label > 0


def positive_slices(label_slices: np.ndarray) -> np.ndarray:
    """Return the indices of the slices of a (depth, height, width) label map that hold foreground."""
    return np.flatnonzero(foreground(label_slices).any(axis=(1, 2)))
