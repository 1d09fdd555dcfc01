"""Training and validation steps: many in one call, metrics on the device, under any distribution strategy."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver.model.averaging import Averages
from tf_liver.model.metrics import liver_metrics, tumour_metrics, with_dice
from tf_liver.model.regions import region_masks, region_probability


class Steps:
    """The steps of a compiled network. Nothing is read back from the device until `results` is asked for.

    averaging: decay of the moving average of the weights; 0 keeps none.
    xla: compile the steps, once for each size that batches have.
    """

    def __init__(
        self, network: tf.keras.Model, strategy: tf.distribute.Strategy, averaging: float = 0.0, xla: bool = False
    ) -> None:
        self.network, self.strategy = network, strategy
        with strategy.scope():
            self._averages = Averages(network, averaging) if averaging else None
            own = liver_metrics() if network.output_shape[-1] == 1 else tumour_metrics()
            self.metrics = [tf.keras.metrics.Mean("loss"), *own]
            network.optimizer.build(network.trainable_variables)
        self._train_step = tf.function(self._train, jit_compile=True) if xla else self._train
        self._validate_step = tf.function(self._validate, jit_compile=True) if xla else self._validate

    @property
    def judged(self) -> tf.keras.Model:
        """The network that is validated and kept: with averaged weights if there are any."""
        return self._averages.network if self._averages else self.network

    @tf.function(reduce_retracing=True)
    def train(self, batches: Iterator[Any], number: tf.Tensor) -> tf.Tensor:
        """Train on the next `number` batches; return the seconds that were spent waiting for them, float64."""
        waited = tf.zeros((), tf.float64)
        for _ in tf.range(number):
            begin = _now()
            with tf.control_dependencies([begin]):
                batch = next(batches)
            with tf.control_dependencies(tf.nest.flatten(self.strategy.experimental_local_results(batch))):
                waited += _now() - begin
            self.strategy.run(self._train_step, batch)
        return waited

    @tf.function(reduce_retracing=True)
    def validate(self, batches: Iterator[Any], number: tf.Tensor) -> None:
        """Add the next `number` batches to the metrics."""
        for _ in tf.range(number):
            self.strategy.run(self._validate_step, next(batches))

    # Nothing in a step chooses by a tensor's value; to look for that in all its layers takes most of a second.
    @tf.autograph.experimental.do_not_convert
    def _train(self, images: tf.Tensor, masks: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            loss = self.network.loss(masks, logits)
            # Every replica holds the loss of the whole batch, and the optimizer sums their gradients.
            share = loss / self.strategy.num_replicas_in_sync
        self.network.optimizer.minimize(share, self.network.trainable_variables, tape=tape)
        if self._averages:
            self._averages.follow()
        self._count(masks, logits, loss)

    @tf.autograph.experimental.do_not_convert
    def _validate(self, images: tf.Tensor, masks: tf.Tensor) -> None:
        logits = self.judged(images, training=False)
        self._count(masks, logits, self.network.loss(masks, logits))

    def _count(self, masks: tf.Tensor, logits: tf.Tensor, loss: tf.Tensor) -> None:
        self.metrics[0].update_state(loss, tf.shape(masks)[0])  # each batch by its size
        if logits.shape[-1] > 1:
            logits = region_probability(logits)
            masks = region_masks(masks, logits.shape[-1])
        for metric in self.metrics[1:]:
            metric.update_state(masks, logits)

    def loss(self) -> float:
        """Return the mean loss since the last reset; NaN once any batch's was."""
        with self.strategy.scope():
            return float(self.metrics[0].result())

    def results(self) -> dict[str, float]:
        """Return loss and metrics since the last reset, over all replicas, and reset them."""
        with self.strategy.scope():
            found = {metric.name: float(metric.result()) for metric in self.metrics}
            for metric in self.metrics:
                metric.reset_state()
        return with_dice(found)

    def rate(self) -> float:
        """Return the learning rate of the last step."""
        optimizer = getattr(self.network.optimizer, "inner_optimizer", self.network.optimizer)
        return float(optimizer.rate(optimizer.iterations - 1))

    def variables(self) -> list[tf.Variable]:
        """Return everything that changes: weights and averages, optimizer, loss scale, running metrics."""
        optimizer = self.network.optimizer
        found = [*self.network.variables, *_values(optimizer.variables)]
        if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
            # tf-keras 2.21 counts these neither among the optimizer's variables nor among the network's.
            found += [optimizer._loss_scale.current_loss_scale, optimizer._loss_scale.counter]
        found += self._averages.network.variables if self._averages else []
        return found + [variable for metric in self.metrics for variable in metric.variables]

    def read(self) -> list[np.ndarray]:
        """Return the values of `variables`; with several workers all must call it together."""
        with self.strategy.scope():
            return [variable.numpy() for variable in self.variables()]

    def write(self, arrays: list[np.ndarray], chief: bool = True) -> None:
        """Set `variables`. Of sums over replicas, the chief's first replica takes all."""
        for variable, array in zip(self.variables(), arrays, strict=True):
            parts = self.strategy.experimental_local_results(variable)
            is_sum = variable.aggregation == tf.VariableAggregation.SUM
            for number, part in enumerate(parts):
                part.assign(np.zeros_like(array) if is_sum and (number or not chief) else array)


def _now() -> tf.Tensor:
    """Return seconds of a clock; TensorFlow's own does not run under --deterministic."""
    return tf.ensure_shape(tf.numpy_function(time.perf_counter, [], tf.float64), ())


def _values(variables: Any) -> list[tf.Variable]:
    return variables() if callable(variables) else list(variables)  # a method in tf-keras' optimizers of old
