"""HU slices to liver probabilities at the same size: what evaluate, predict and the SavedModel all call."""

import tensorflow as tf

from tf_liver.data.slices import SIZE_MULTIPLE, normalise
from tf_liver.experiment import Experiment


def network_input(images_hu: tf.Tensor, experiment: Experiment) -> tf.Tensor:
    """Normalise slices of any size and bring them to the network's.

    images_hu: (B, H, W) float32. Returns (B, S, S, 1) float32 for image_size S, or for native size
    (B, H', W', 1), padded below and at the right with the normalised value of air to a multiple of 32.
    """
    images = normalise(images_hu, experiment, tf.experimental.numpy)[..., tf.newaxis]
    if experiment.image_size:
        # Half-pixel centres without antialiasing: what cv2.INTER_LINEAR, albumentations' resize, does.
        return tf.image.resize(images, (experiment.image_size,) * 2, method="bilinear", antialias=False)
    height, width = tf.unstack(tf.shape(images)[1:3])
    return tf.pad(images, [(0, 0), (0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE), (0, 0)])


def native_probability(probability: tf.Tensor, height: tf.Tensor, width: tf.Tensor, image_size: int) -> tf.Tensor:
    """Undo what `network_input` did to the size.

    probability: (B, S, S, C) float32. Returns (B, height, width, C) float32.
    """
    if image_size:
        return tf.image.resize(probability, (height, width), method="bilinear", antialias=False)
    return probability[:, :height, :width]


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
