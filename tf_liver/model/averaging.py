"""The moving average of a network's weights, which swings less than they do from epoch to epoch."""

import tensorflow as tf


class Averages:
    """A copy of a network that follows its weights slowly (Polyak and Juditsky 1992), on every replica by itself.

    Batch normalisation's moving mean and variance follow like the weights, with the same decay: they then are those
    of networks that are as old as the averaged weights, if their own momentum is 0, and older otherwise, which shows
    while a training is young (experiments/LOG.md). The decay begins low and rises with the steps, as in
    TensorFlow's own ExponentialMovingAverage: a short training would otherwise keep its random beginning.

    network: what training changes, compiled. decay: of the average, for each step, in the end.
    """

    def __init__(self, network: tf.keras.Model, decay: float) -> None:
        self.network = tf.keras.models.clone_model(network)
        self.network.set_weights(network.get_weights())
        self._source, self._decay = network, decay

    def follow(self) -> None:
        """Follow the step that was taken; one that float16 skips counts too, as a step that moved no weight."""
        number = tf.cast(self._source.optimizer.iterations.read_value(), tf.float32)
        share = 1 - tf.minimum(self._decay, (1 + number) / (10 + number))
        for average, weight in zip(self.network.variables, self._source.variables, strict=True):
            # Through the replica's own handle: all have the same weights, so none needs to hear of the others.
            tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=share, delta=average - weight)
