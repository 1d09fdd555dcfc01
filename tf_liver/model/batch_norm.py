"""Batch normalisation over a global batch that several devices share."""

from typing import Any

import tensorflow as tf


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
