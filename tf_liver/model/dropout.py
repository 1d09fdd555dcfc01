"""Dropout whose masks follow from seed and step, so that a training that goes on draws those it would have drawn."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("tf_liver")
class Dropout(tf.keras.layers.Layer):
    """Keras' dropout without a generator, whose state would be one more thing to save.

    rate: share that is dropped. noise_shape: of the mask, which is broadcast; None is the input's size, everywhere or
    along one axis: (None, 1, 1, None) drops whole channels (Tompson et al. 2015).
    """

    def __init__(self, rate: float, noise_shape: Sequence[int | None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.noise_shape = rate, noise_shape
        self._seed: Callable[[], tf.Tensor] | None = None

    def begin(self, seed: int, optimizer: tf.keras.optimizers.Optimizer) -> None:
        """Draw masks for this seed and the steps that the optimizer counts; others on each replica and in each layer.

        XLA draws others than plain execution, from the same seed.
        """
        own = (seed + zlib.crc32(self.name.encode())) % 2**31

        def drawn() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
            return tf.stack([own, optimizer.iterations.read_value() * context.num_replicas_in_sync + replica])

        self._seed = drawn

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        """(B, …) → the same, in training with parts that are 0 and the rest 1 / (1 − rate) times as large."""
        if not training or not self.rate:
            return tf.identity(inputs)
        assert self._seed, "compile_network begins every dropout"
        size = tf.shape(inputs)
        shape = [
            size[n] if one is None else one for n, one in enumerate(self.noise_shape or inputs.shape.rank * [None])
        ]
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, self._seed(), noise_shape=shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}
