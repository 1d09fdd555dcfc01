"""Keras metrics of one region's segmentation, exact over any number of batches.

All three count pixels in int64 (float32 stops counting at 2²⁴, 16.8 million) and divide once, so that a
result over batches of unequal size equals one pass over everything.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_liver.data import REGIONS
from tf_liver.data.slices import THRESHOLD


class _PixelCounts(tf.keras.metrics.Metric):
    """Counts of true and false, positive and negative pixels; the metrics below divide them.

    region: the channel that counts; None counts all there are.
    """

    def __init__(self, name: str, from_logits: bool = False, region: int | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.from_logits, self.region = from_logits, region
        # counts[reference, prediction]
        self.counts = self.add_weight("counts", (2, 2), dtype=tf.int64, initializer="zeros")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> None:
        """Add a batch; y_true 0 or 1, y_pred probability (or logit), any one shape."""
        if sample_weight is not None:
            raise ValueError(f"{self.name}: pixels are counted, not weighed. Received: a sample_weight")
        if self.region is not None:
            y_true, y_pred = y_true[..., self.region], y_pred[..., self.region]
        # A probability of THRESHOLD or more is foreground; a logit of 0 is a probability of 0.5.
        limit = 0.0 if self.from_logits else THRESHOLD
        reference = tf.reshape(tf.cast(y_true, tf.float32) >= 0.5, [-1])
        prediction = tf.reshape(tf.cast(y_pred, tf.float32) >= limit, [-1])
        hits = _count(reference & prediction)
        predicted, positive, total = _count(prediction), _count(reference), tf.size(reference, tf.int64)
        negative_hits = total - predicted - positive + hits
        self.counts.assign_add([[negative_hits, predicted - hits], [positive - hits, hits]])

    def reset_state(self) -> None:
        """Forget all pixels; Keras' own would assign a scalar to the matrix."""
        self.counts.assign(tf.zeros_like(self.counts))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits, "region": self.region}


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.math.count_nonzero(mask, dtype=tf.int64)


def _ratio(part: tf.Tensor, whole: tf.Tensor, if_empty: float) -> tf.Tensor:
    """Divide counts; float64 first, since float32 cannot hold them."""
    part, whole = tf.cast(part, tf.float64), tf.cast(whole, tf.float64)
    return tf.cast(tf.where(whole > 0, part / tf.maximum(whole, 1), if_empty), tf.float32)


@tf.keras.utils.register_keras_serializable("tf_liver")
class PixelAccuracy(_PixelCounts):
    """Share of pixels whose class is right; 0 before the first pixel."""

    def __init__(self, name: str = "pixel_accuracy", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def result(self) -> tf.Tensor:
        return _ratio(tf.linalg.trace(self.counts), tf.reduce_sum(self.counts), 0.0)


@tf.keras.utils.register_keras_serializable("tf_liver")
class MeanIoU(_PixelCounts):
    """Mean of the IoU of background and of liver, thresholded at 0.5.

    A class in neither reference nor prediction has IoU 1: nothing was there and nothing was claimed.
    """

    def __init__(self, name: str = "mean_iou", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def result(self) -> tf.Tensor:
        hits = tf.linalg.diag_part(self.counts)
        union = tf.reduce_sum(self.counts, 0) + tf.reduce_sum(self.counts, 1) - hits
        return tf.reduce_mean(_ratio(hits, union, 1.0))


@tf.keras.utils.register_keras_serializable("tf_liver")
class Dice(_PixelCounts):
    """Dice of the liver over all pixels since the last reset; 1 if neither side holds any liver."""

    def __init__(self, name: str = "dice", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def result(self) -> tf.Tensor:
        hits = self.counts[1, 1]
        return _ratio(2 * hits, tf.reduce_sum(self.counts[1]) + tf.reduce_sum(self.counts[:, 1]), 1.0)


def liver_metrics() -> list[tf.keras.metrics.Metric]:
    """Return the three metrics for a network that gives logits."""
    return [PixelAccuracy(from_logits=True), MeanIoU(from_logits=True), Dice(from_logits=True)]


def tumour_metrics() -> list[tf.keras.metrics.Metric]:
    """Return the metrics for masks and probabilities of liver and tumour: those of the liver, and Dice of each."""
    dices = [Dice(f"{name}_dice", region=n) for n, name in enumerate(REGIONS["tumour"])]
    return [PixelAccuracy(region=0), MeanIoU(region=0), *dices]


def with_dice(results: Mapping[str, float]) -> dict[str, float]:
    """Return results with "dice", which steers a training and picks its best weights: the mean over the regions.

    Of a liver model it is the liver's. Of a tumour model, the liver's alone would be at its best before tumours are
    learnt, and the tumours' alone is a matter of a few lesions that one epoch finds and the next one does not.
    """
    dices = [value for name, value in results.items() if name.endswith("_dice")]
    return {**results, "dice": sum(dices) / len(dices)} if dices else dict(results)
