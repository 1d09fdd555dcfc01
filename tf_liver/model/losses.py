"""Losses on logits of the whole global batch, computed in float32 whatever the network's precision."""

from collections.abc import Callable

import tensorflow as tf

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Added to both sides of the Dice fraction: a batch without any foreground then has a loss and a gradient.
DICE_SMOOTH = 1.0


def binary_cross_entropy(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross-entropy over all pixels.

    masks, logits: (B, H, W, C); masks 0 or 1. Returns a float32 scalar.
    """
    masks, logits = tf.cast(masks, tf.float32), tf.cast(logits, tf.float32)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(masks, logits)
    if _replicas() == 1:
        return tf.reduce_mean(entropy)
    return _over_replicas(tf.reduce_sum(entropy)) / _over_replicas(tf.cast(tf.size(entropy), tf.float32))


def soft_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return 1 − Dice of the probabilities, pooled over the batch (Milletari et al. 2016, without squares).

    masks, logits: (B, H, W, C); masks 0 or 1. Returns a float32 scalar, the mean over the channels.
    Sums are float32: 16 × 256 × 256 foreground pixels pass float16's largest number, 65,504.
    """
    masks, probability = tf.cast(masks, tf.float32), tf.sigmoid(tf.cast(logits, tf.float32))
    both = _over_replicas(tf.reduce_sum(masks * probability, (0, 1, 2)))
    total = _over_replicas(tf.reduce_sum(masks, (0, 1, 2)) + tf.reduce_sum(probability, (0, 1, 2)))
    return tf.reduce_mean(1 - (2 * both + DICE_SMOOTH) / (total + DICE_SMOOTH))


def cross_entropy_and_dice(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the sum of `binary_cross_entropy` and `soft_dice`."""
    return binary_cross_entropy(masks, logits) + soft_dice(masks, logits)


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context else 1


def _over_replicas(part: tf.Tensor) -> tf.Tensor:
    """Sum over the replicas that share a global batch, so that a loss is that of one device with all of it."""
    if _replicas() == 1:
        return part
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, part)


LOSSES: dict[str, Loss] = {
    "bce": binary_cross_entropy,
    "dice": soft_dice,
    "bce_dice": cross_entropy_and_dice,
}
