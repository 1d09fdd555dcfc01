"""Faster ways to run the same network, and what they cost: precision and XLA, measured beside float32."""

import statistics
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver.data.slices import THRESHOLD
from tf_liver.model.precision import choose_policy
from tf_liver.model.predictor import SlicePredictor
from tf_liver.serving.check import dice_of

PRECISIONS = ("auto", "float32", "bfloat16")
ROUNDS = 3


def export_precision(wanted: str, trained: str) -> str:
    """Return the policy of an exported model.

    auto: the one that the run was trained in, which `predict` uses too, if this machine would choose it itself;
    otherwise float32, which every machine is at home with.
    """
    if wanted == "auto":
        return trained if trained == choose_policy("auto") else "float32"
    return {"bfloat16": "mixed_bfloat16"}.get(wanted, wanted)


class CompiledNetwork(tf.Module):
    """A network that XLA compiles, once for each shape of a batch."""

    def __init__(self, network: tf.keras.Model) -> None:
        super().__init__()
        self.network = network
        self._call = tf.function(lambda images: network(images, training=False), jit_compile=True)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return logits in inference, as the network itself does."""
        return self._call(images)


def beside(predictor: SlicePredictor, reference: SlicePredictor, slices: np.ndarray) -> dict[str, Any]:
    """Return how much faster one predictor is than another, and how far apart their answers are.

    slices: (B, H, W) float32 HU. The rounds are interleaved and the medians compared; the first calls do not count.
    Returns {"speed", "dice", "max_probability_difference"}.
    """
    answers = [np.asarray(each(slices)) for each in (predictor, reference)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for each, taken in zip((predictor, reference), seconds, strict=True):
            start = time.perf_counter()
            np.asarray(each(slices))
            taken.append(time.perf_counter() - start)
    return {
        "speed": round(statistics.median(seconds[1]) / statistics.median(seconds[0]), 3),
        "dice": dice_of(*(answer >= THRESHOLD for answer in answers)),
        "max_probability_difference": float(np.abs(answers[0] - answers[1]).max()),
    }
