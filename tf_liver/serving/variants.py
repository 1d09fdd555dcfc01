"""Faster ways to run the same network, and what they cost: precision and XLA, measured beside float32."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver.data.slices import THRESHOLD
from tf_liver.experiment import Experiment
from tf_liver.model.folding import folded
from tf_liver.model.precision import choose_policy
from tf_liver.model.predictor import AveragedSlices, SlicePredictor
from tf_liver.serving.check import dice_of
from tf_liver.volume.inference import Predictor

PRECISIONS = ("auto", "float32", "bfloat16")
ROUNDS = 3


def export_precision(wanted: str, trained: str) -> str:
    """Return the type that an exported model computes in; auto: the one that `predict` uses on this machine."""
    if wanted != "auto":
        return wanted
    return choose_policy("float32" if trained == "float32" else "auto").removeprefix("mixed_")


class LeanNetwork(tf.Module):
    """A trained network for inference alone: batch normalisation folded in, weights in the type it computes in.

    network: in float32. compute_type: "float32", "bfloat16" or "float16". xla: compile it, once for each shape.
    """

    def __init__(self, network: tf.keras.Model, compute_type: str, xla: bool = False) -> None:
        super().__init__()
        self._lean = lean = folded(network, compute_type)
        self._call = tf.function(lambda images: lean(images, training=False), jit_compile=xla)

    @property
    def variables(self) -> list[tf.Variable]:
        """The weights."""
        return self._lean.variables

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return logits float32 in inference, whatever the type inside."""
        return tf.cast(self._call(tf.cast(images, self._lean.compute_dtype)), tf.float32)


def lean_predictor(
    networks: Sequence[tf.keras.Model], experiments: Sequence[Experiment], compute_type: str, xla: bool = False
) -> SlicePredictor | AveragedSlices:
    """Return trained networks, each with its experiment, as one predictor of slices that can be saved."""
    predictors = [
        SlicePredictor(LeanNetwork(network, compute_type, xla), experiment)
        for network, experiment in zip(networks, experiments, strict=True)
    ]
    return AveragedSlices(predictors) if len(predictors) > 1 else predictors[0]


def beside(predictor: Predictor, reference: Predictor, slices: np.ndarray) -> dict[str, Any]:
    """Return how much faster one predictor is than another, and how far apart their answers are.

    slices: (B, H, W) float32 HU. The rounds are interleaved and the medians compared; the first calls do not count.
    Returns {"speed", "dice", "max_probability_difference"}.
    """
    found = apart(predictor, reference, slices)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for each, taken in zip((predictor, reference), seconds, strict=True):
            start = time.perf_counter()
            np.asarray(each(slices))
            taken.append(time.perf_counter() - start)
    return {"speed": round(statistics.median(seconds[1]) / statistics.median(seconds[0]), 3), **found}


def apart(predictor: Predictor, reference: Predictor, slices: np.ndarray) -> dict[str, float]:
    """Return {"dice", "max_probability_difference"} between two predictors' answers for (B + 2n, H, W) float32 HU.

    Of a tumour model, whose answers are (B, H, W, 2), the Dice of the region that is further apart.
    """
    first, second = (np.asarray(each(slices)) for each in (predictor, reference))
    regions = ([*np.moveaxis(each, -1, 0)] if each.ndim == 4 else [each] for each in (first, second))
    return {
        "dice": min(dice_of(a >= THRESHOLD, b >= THRESHOLD) for a, b in zip(*regions, strict=True)),
        "max_probability_difference": float(np.abs(first - second).max()),
    }
