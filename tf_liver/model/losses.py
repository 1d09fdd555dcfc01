"""Losses on logits of the whole global batch, computed in float32 whatever the network's precision.

All take labels (B, H, W, 1), which are 0 and 1 or, for tumours, 0 to 2, and logits (B, H, W, C) of any of the heads in
regions.py, and return a float32 scalar.
"""

from collections.abc import Callable

import tensorflow as tf

from tf_liver.model.regions import CLASSES, region_masks, region_probability

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Added to both sides of the Dice fraction: a batch without any foreground then has a loss and a gradient.
DICE_SMOOTH = 1.0
# Abraham and Khan 2019 (arXiv:1810.07842): a missed pixel weighs more than an invented one, and regions that overlap
# badly more than others. Their γ is the inverse of the power here.
TVERSKY_MISSED, TVERSKY_INVENTED = 0.7, 0.3
TVERSKY_POWER = 3 / 4
# With weights of ½ and power 1 it is soft Dice, smoothing included.
TVERSKY_SMOOTH = DICE_SMOOTH / 2
# Below it the loss is flat: the power's slope is infinite where everything is right.
TVERSKY_LEAST = 1e-6


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross-entropy over all pixels, of each sigmoid or of the softmax."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == CLASSES:
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels[..., 0], tf.int32), logits)
    else:
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(region_masks(labels, logits.shape[-1]), logits)
    if _replicas() == 1:
        return tf.reduce_mean(entropy)
    return _over_replicas(tf.reduce_sum(entropy)) / _over_replicas(tf.cast(tf.size(entropy), tf.float32))


def soft_dice(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return 1 − Dice of the probabilities, pooled over the batch (Milletari et al. 2016, without squares).

    It is the mean over the regions. Pooled, since most slices hold no tumour, and Dice of nothing is noise.
    Sums are float32: 16 × 256 × 256 foreground pixels pass float16's largest number, 65,504.
    """
    masks, probability = _regions(labels, logits)
    both = _over_replicas(tf.reduce_sum(masks * probability, (0, 1, 2)))
    total = _over_replicas(tf.reduce_sum(masks, (0, 1, 2)) + tf.reduce_sum(probability, (0, 1, 2)))
    return tf.reduce_mean(1 - (2 * both + DICE_SMOOTH) / (total + DICE_SMOOTH))


def focal_tversky(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the focal Tversky loss, pooled over the batch, the mean over the regions (Abraham and Khan 2019).

    (1 − TI)^¾ with TI = hits / (hits + 0.7 missed + 0.3 invented), in sums of probabilities.
    """
    masks, probability = _regions(labels, logits)
    hits = _over_replicas(tf.reduce_sum(masks * probability, (0, 1, 2)))
    missed = _over_replicas(tf.reduce_sum(masks * (1 - probability), (0, 1, 2)))
    invented = _over_replicas(tf.reduce_sum((1 - masks) * probability, (0, 1, 2)))
    wrong = TVERSKY_MISSED * missed + TVERSKY_INVENTED * invented
    return tf.reduce_mean(tf.maximum(wrong / (hits + wrong + TVERSKY_SMOOTH), TVERSKY_LEAST) ** TVERSKY_POWER)


def cross_entropy_and_dice(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the sum of `cross_entropy` and `soft_dice`."""
    return cross_entropy(labels, logits) + soft_dice(labels, logits)


def cross_entropy_and_tversky(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the sum of `cross_entropy` and `focal_tversky`."""
    return cross_entropy(labels, logits) + focal_tversky(labels, logits)


def _regions(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return masks and probabilities of the regions, both (B, H, W, R) float32."""
    probability = region_probability(tf.cast(logits, tf.float32))
    return region_masks(labels, probability.shape[-1]), probability


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _over_replicas(part: tf.Tensor) -> tf.Tensor:
    """Sum over the replicas that share a global batch, so that a loss is that of one device with all of it."""
    if _replicas() == 1:
        return part
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, part)


LOSSES: dict[str, Loss] = {
    "bce": cross_entropy,
    "dice": soft_dice,
    "bce_dice": cross_entropy_and_dice,
    "focal_tversky": focal_tversky,
    "bce_focal_tversky": cross_entropy_and_tversky,
}
