"""HU slices to probabilities at the same size: what evaluate, predict and the SavedModel all call."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from tf_liver.data import REGIONS
from tf_liver.data.slices import SIZE_MULTIPLE, clip_hu, normalise, scale
from tf_liver.experiment import Experiment, replace
from tf_liver.model.folding import folded
from tf_liver.model.precision import choose_policy
from tf_liver.model.regions import region_probability
from tf_liver.model.unet import load_network

BATCH_SLICES = 16
# Steps along rows and columns of the views that are averaged: as it is, two mirror images, and turned by 180 degrees.
MIRRORS = ((1, 1), (1, -1), (-1, 1), (-1, -1))

# TensorFlow has the cores already.
cv2.setNumThreads(0)


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


def within(images_hu: Any, neighbours: int, wanted: int) -> Any:
    """Return slices with fewer neighbours around them: (B + 2 · neighbours, H, W) → (B + 2 · wanted, H, W)."""
    more = neighbours - wanted
    return images_hu[more:-more] if more else images_hu


class SlicePredictor(tf.Module):
    """A network with everything around it: normalisation, resize, probabilities, resize back.

    neighbours: slices on each side that it looks at as well.
    """

    def __init__(self, network: tf.keras.Model, experiment: Experiment) -> None:
        super().__init__()
        self.network = network
        self._experiment = experiment
        self.neighbours = experiment.neighbours

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="image")])
    def __call__(self, images_hu: tf.Tensor) -> tf.Tensor:
        """Return the probability of liver for slices with n neighbours: (B + 2n, H, W) HU float32 → (B, H, W) float32.

        Of a tumour model, those of liver and of tumour: (B, H, W, 2).
        """
        planes, last = network_input(images_hu, self._experiment), 2 * self.neighbours
        number = tf.shape(planes)[0] - last
        return self._answer(tf.concat([planes[n : n + number] for n in range(last + 1)], axis=-1), images_hu)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="image")])
    def alone(self, images_hu: tf.Tensor) -> tf.Tensor:
        """Return the same for slices whose neighbours nobody knows, each in the place of its own: (B, H, W) HU."""
        planes = network_input(images_hu, self._experiment)
        return self._answer(tf.repeat(planes, 2 * self.neighbours + 1, axis=-1), images_hu)

    def _answer(self, inputs: tf.Tensor, images_hu: tf.Tensor) -> tf.Tensor:
        """Return the probability at the size of the slices for the network's input, (B, S, S, 2n + 1)."""
        height, width = tf.unstack(tf.shape(images_hu)[1:3])
        logits = self.network(inputs, training=False)
        probability = native_probability(region_probability(logits), height, width, self._experiment.image_size)
        return probability[..., 0] if probability.shape[-1] == 1 else probability


class AveragedSlices(tf.Module):
    """Several runs in one graph, each with its own normalisation and size: the mean of their probabilities."""

    def __init__(self, predictors: Sequence[SlicePredictor]) -> None:
        super().__init__()
        self._predictors = list(predictors)
        self.neighbours = max(predictor.neighbours for predictor in predictors)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="image")])
    def __call__(self, images_hu: tf.Tensor) -> tf.Tensor:
        """(B + 2n, H, W) HU float32 → (B, H, W) float32, or (B, H, W, 2), as the predictors."""
        answers = [each(within(images_hu, self.neighbours, each.neighbours)) for each in self._predictors]
        return tf.add_n(answers) / len(answers)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="image")])
    def alone(self, images_hu: tf.Tensor) -> tf.Tensor:
        """As `SlicePredictor.alone`."""
        return tf.add_n([each.alone(images_hu) for each in self._predictors]) / len(self._predictors)


class ScanPredictor:
    """What evaluate and predict call: the answers of SlicePredictor, NumPy in and out, in half the time around it.

    OpenCV resizes, as in training, which costs a fifth of TensorFlow's resize. The network is traced once, for batches
    of one size: a smaller one is filled up with zeros. Several threads may call it; one at a time has the network.

    neighbours: as SlicePredictor's.
    """

    def __init__(self, network: tf.keras.Model, experiment: Experiment) -> None:
        self._experiment = experiment
        size = experiment.image_size or None
        self.neighbours = experiment.neighbours
        self._depth = 2 * experiment.neighbours + 1
        self._batch = max(1, min(BATCH_SLICES, BATCH_SLICES * 256**2 // (size or 512) ** 2))
        self._lock = threading.Lock()
        regions = len(REGIONS[experiment.task])
        self._channels = () if regions == 1 else (regions,)

        @tf.function(input_signature=[tf.TensorSpec((self._batch, size, size, self._depth), tf.float32)])
        def forward(images: tf.Tensor) -> tf.Tensor:
            logits = network(images, training=False)  # layers cast to their own type
            probability = region_probability(tf.cast(logits, tf.float32))
            return probability[..., 0] if probability.shape[-1] == 1 else probability

        self._forward = forward

    def warm_up(self) -> "ScanPredictor":
        """Trace the network and let oneDNN choose its kernels, on a batch of nothing."""
        size = self._experiment.image_size or 512
        self._forward(tf.zeros((self._batch, size, size, self._depth)))
        return self

    def __call__(self, images_hu: np.ndarray) -> np.ndarray:
        """Return the probability of liver: (B + 2n, H, W) HU of any real type → (B, H, W) float32.

        Of a tumour model, those of liver and of tumour: (B, H, W, 2).
        """
        number = len(images_hu) - self._depth + 1
        probability = np.empty((number, *images_hu.shape[1:], *self._channels), np.float32)
        for first in range(0, number, self._batch):
            last = min(first + self._batch, number)
            self._predict(images_hu[first : last + self._depth - 1], probability[first:last])
        return probability

    def _predict(self, images_hu: np.ndarray, out: np.ndarray) -> None:
        """Write the probability of a batch, (b, H, W, …) for b up to the network's batch, to `out`."""
        number, height, width = out.shape[:3]
        inputs = self._inputs(images_hu)
        with self._lock:
            probability = self._forward(tf.constant(inputs)).numpy()[:number]
        if not self._experiment.image_size:
            out[:] = probability[:, :height, :width]
            return
        for n in range(number):
            cv2.resize(probability[n], (width, height), dst=out[n], interpolation=cv2.INTER_LINEAR)

    def _inputs(self, images_hu: np.ndarray) -> np.ndarray:
        """Return a full batch of the network's input, (batch, S, S, 2n + 1) float32, as SlicePredictor makes it."""
        number, height, width = images_hu.shape
        clipped = clip_hu(images_hu.astype(np.float32, copy=False), self._experiment)
        peaks = clipped.max(axis=(1, 2)).reshape(number, 1, 1, 1)
        size = self._experiment.image_size
        shape = (size, size) if size else (height + -height % SIZE_MULTIPLE, width + -width % SIZE_MULTIPLE)
        inputs = np.zeros((self._batch + self._depth - 1, *shape, 1), np.float32)
        for n, one in enumerate(clipped):
            if size:
                cv2.resize(one, shape, dst=inputs[n, ..., 0], interpolation=cv2.INTER_LINEAR)
            else:
                inputs[n, :height, :width, 0] = one
        # Padding is air after the scaling, so only what holds pixels is scaled.
        there = inputs[:number, :size, :size] if size else inputs[:number, :height, :width]
        scale(there, peaks, self._experiment, out=there)
        return np.lib.stride_tricks.sliding_window_view(inputs[..., 0], self._depth, axis=0)


class Mirrored:
    """Test-time augmentation: the mean over a slice, its left-right and front-back mirror images, and both at once."""

    def __init__(self, predictor: Callable[[np.ndarray], np.ndarray]) -> None:
        self._predictor = predictor
        self.neighbours = getattr(predictor, "neighbours", 0)

    def __call__(self, images_hu: np.ndarray) -> np.ndarray:
        """(B + 2n, H, W) HU → (B, H, W) float32, or (B, H, W, 2), as the predictor."""
        views = [(slice(None), slice(None, None, rows), slice(None, None, columns)) for rows, columns in MIRRORS]
        return mean(np.asarray(self._predictor(images_hu[view]))[view] for view in views)


class Averaged:
    """Several runs as one: the mean of their probabilities."""

    def __init__(self, predictors: Sequence[Callable[[np.ndarray], np.ndarray]]) -> None:
        self._predictors = [(predictor, getattr(predictor, "neighbours", 0)) for predictor in predictors]
        self.neighbours = max(number for _, number in self._predictors)

    def __call__(self, images_hu: np.ndarray) -> np.ndarray:
        """(B + 2n, H, W) HU → (B, H, W) float32, or (B, H, W, 2), as the predictors."""
        return mean(np.asarray(each(within(images_hu, self.neighbours, number))) for each, number in self._predictors)


def mean(probabilities: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of several (B, H, W, …) probabilities, holding two of them at a time."""
    total, number = np.zeros((), np.float32), 0
    for one in probabilities:
        total, number = total + one, number + 1
    return total / np.float32(number)


def load_predictor(experiment: Experiment, weights: str) -> tuple[ScanPredictor, str]:
    """Return a run's predictor, and the type that it computes in.

    Weights are float32 whatever they were trained in, so the type is what suits this machine, unless the experiment
    asks for float32.

    Raises: as `load_network`.
    """
    precision = "float32" if experiment.precision == "float32" else "auto"
    compute_type = choose_policy(precision).removeprefix("mixed_")
    network = load_network(replace(experiment, precision="float32"), weights)
    return ScanPredictor(folded(network, compute_type), experiment).warm_up(), compute_type
