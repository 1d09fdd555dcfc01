"""What tests and the processes that they start share."""

import tensorflow as tf

from tf_liver.model.predictor import SlicePredictor


def small_predictor(experiment):
    """One convolution in place of the network, for tests of the files around it."""
    tf.keras.utils.set_random_seed(0)
    return SlicePredictor(tf.keras.Sequential([tf.keras.layers.Conv2D(1, 3, padding="same")]), experiment)
