"""HU slices to liver probabilities at the same size: what evaluate, predict and the SavedModel all call."""

import tensorflow as tf

from tf_liver.data.slices import native_probability, network_input
from tf_liver.experiment import Experiment


class SlicePredictor(tf.Module):
    """A network with everything around it: normalisation, resize, sigmoid, resize back."""

    def __init__(self, network: tf.keras.Model, experiment: Experiment) -> None:
        super().__init__()
        self.network = network
        self._experiment = experiment

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="image")])
    def __call__(self, images_hu: tf.Tensor) -> tf.Tensor:
        """Return the probability of liver for a batch of slices: (B, H, W) HU float32 → (B, H, W) float32."""
        height, width = tf.unstack(tf.shape(images_hu)[1:3])
        logits = self.network(network_input(images_hu, self._experiment), training=False)
        probability = native_probability(tf.sigmoid(logits), height, width, self._experiment.image_size)
        return probability[..., 0]
