"""Adam and AdamW in as few passes over memory as TensorFlow has kernels for, and the learning rate's first steps."""

from typing import Any

import tensorflow as tf

from tf_liver.experiment import Experiment


@tf.keras.utils.register_keras_serializable("tf_liver")
class FusedAdam(tf.keras.optimizers.Adam):
    """Keras' Adam by TensorFlow's own kernel: the same numbers but for rounding (Kingma and Ba 2014).

    Keras writes it as a dozen operations, each of which reads and writes an array of the size of the weights; on two
    CPU cores that took longer than the forward pass of a batch of 8 × 128². It is faster on GPUs as well.

    weight_decay: that of AdamW (Loshchilov and Hutter 2019), by itself and not through the gradient; of kernels only:
        biases and the two parameters of a batch normalisation are vectors, and stay.
    warmup_steps: steps in which the learning rate rises from 0, in proportion.
    """

    def __init__(self, learning_rate: Any = 1e-3, weight_decay: float = 0.0, warmup_steps: int = 0, **kw: Any) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kw)
        self.warmup_steps = warmup_steps

    def rate(self, iterations: tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step before which there were so many."""
        rate = tf.convert_to_tensor(self.learning_rate)
        if not self.warmup_steps:
            return rate
        return rate * tf.clip_by_value(tf.cast(iterations, rate.dtype) / self.warmup_steps, 0, 1)

    def _distributed_apply_gradients_fn(self, distribution: Any, grads_and_vars: Any, **_: Any) -> tf.Tensor:
        """Take a step; gradients are dense.

        In Keras' own, every variable works out for itself what all have in common: a third of a step's graph, which
        has to be traced and optimized before the first.
        """
        step, rate = tf.cast(self.iterations + 1, tf.float32), self.rate(self.iterations)
        betas = {"beta1": tf.constant(self.beta_1), "beta2": tf.constant(self.beta_2)}
        powers = {f"{name}_power": tf.pow(beta, step) for name, beta in betas.items()}
        epsilon, kept = tf.constant(self.epsilon), 1 - rate * self.weight_decay

        def update(variable: tf.Variable, gradient: tf.Tensor) -> None:
            number = self._index_dict[self._var_key(variable)]
            if self.weight_decay and variable.shape.rank > 1:
                # A product takes the variable's place without being copied; assign_sub costs twice the time on a CPU.
                variable.assign(variable * kept)
            m, v = self._momentums[number].handle, self._velocities[number].handle
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=m, v=v, lr=rate, epsilon=epsilon, grad=gradient, **betas, **powers
            )

        for gradient, variable in grads_and_vars:
            distribution.extended.update(variable, update, args=(gradient,), group=False)
        return self.iterations.assign_add(1)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: the step itself has, where Keras would go over all variables once more."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "warmup_steps": self.warmup_steps}


def make_optimizer(experiment: Experiment, steps_per_epoch: int) -> FusedAdam:
    """Return the experiment's optimizer, with the part of its schedule that does not depend on scores.

    Warm-up: rate · t / W at the step before which there were t, W = warmup_epochs · steps_per_epoch. Cosine, after
    it: rate · (1 + cos(π (t − W) / (T − W))) / 2, T = epochs · steps_per_epoch (Loshchilov and Hutter 2017).
    """
    rate: Any = experiment.learning_rate
    warmup = round(experiment.warmup_epochs * steps_per_epoch)
    if experiment.schedule == "cosine":
        rest = experiment.epochs * steps_per_epoch - warmup
        rate = tf.keras.optimizers.schedules.CosineDecay(0.0, rest, warmup_target=rate, warmup_steps=warmup)
        warmup = 0
    return FusedAdam(rate, experiment.weight_decay if experiment.optimizer == "adamw" else 0.0, warmup)
