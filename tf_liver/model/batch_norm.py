"""Batch normalisation over a global batch that several devices share."""

import math
from typing import Any

import tensorflow as tf

from tf_liver.experiment import Experiment

# The share of what they began with (mean 0, variance 1) that batch normalisation's averages may still hold when they
# are used. With momentum 0.99 a network scored Dice 0.02 with 0.21 of it left, after 156 steps, and 0.77 with 0.04.
UNSETTLED = 0.05


def unsettled(experiment: Experiment, steps_an_epoch: int) -> str:
    """Say that a training has fewer steps than batch normalisation's averages need to settle, and what to set; or "".

    After n steps the averages still hold momentumⁿ of what they began with, whatever the batches showed.
    """
    momentum, steps = experiment.batch_norm_momentum, experiment.epochs * steps_an_epoch
    needed = math.ceil(math.log(UNSETTLED) / math.log(momentum)) if momentum else 0
    if steps >= needed:
        return ""
    lower, epochs = math.floor(100 * UNSETTLED ** (1 / steps)) / 100, math.ceil(needed / steps_an_epoch)
    return (
        f"batch_norm_momentum {momentum:g} needs {needed} steps to settle, and this training has {steps}: its scores "
        f"will be too low; --batch-norm-momentum {lower:g} or --epochs {epochs} mends that"
    )


class BatchNormalization(tf.keras.layers.BatchNormalization):  # its name is that of its weights in files
    """Keras' layer with the statistics of the whole global batch, to rounding what one device has (Ioffe 2015).

    Keras' own `synchronized=True` is not: its moving variance lacks the factor n / (n − 1) of the fused kernel, and
    its variance is a difference of large sums.
    """

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """(B, H, W, C) → the same; B is this replica's part of the batch."""
        context = tf.distribute.get_replica_context()
        if not training or context is None:
            return super().call(inputs, training=training)

        def over_replicas(part: tf.Tensor) -> tf.Tensor:
            return context.all_reduce(tf.distribute.ReduceOp.SUM, part)

        values = tf.cast(inputs, tf.float32)
        number = over_replicas(tf.cast(tf.size(values) / values.shape[-1], tf.float32))
        mean = over_replicas(tf.reduce_sum(values, (0, 1, 2))) / number
        variance = over_replicas(tf.reduce_sum(tf.square(values - mean), (0, 1, 2))) / number
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance * number / (number - 1))):
            average.assign_sub((average - tf.stop_gradient(value)) * (1 - self.momentum))
        normal = tf.nn.batch_normalization(values, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(normal, inputs.dtype)
