"""What steers a training stands where it stood once it is told the epochs again; pictures are of the slice itself."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_liver.callbacks import Overlays, steering
from tf_liver.experiment import replace
from tf_liver.history import MONITOR

scores = st.lists(st.sampled_from([0.0, 0.3, 0.30005, 0.5, 0.7, 0.7002, 0.9]), min_size=1, max_size=30)


def told(experiment, values):
    """Learning rate and the wish to stop after these epochs."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=(1,))])
    model.compile(tf.keras.optimizers.SGD(0.5))
    callbacks = tf.keras.callbacks.CallbackList(steering(experiment), model=model)
    for part in values:  # each part is a process that is told all epochs before it
        model.optimizer.learning_rate, model.stop_training = 0.5, False
        callbacks.on_train_begin()
        for epoch, value in enumerate(part):
            callbacks.on_epoch_end(epoch, {MONITOR: value})
    return float(model.optimizer.learning_rate), model.stop_training


@settings(max_examples=30, deadline=None)
@given(scores, st.integers(0, 30), st.integers(0, 4))
def test_told_again_they_stand_where_they_stood(tiny, values, cut, patience):
    experiment = replace(tiny, schedule="plateau", early_stopping=patience)
    assert told(experiment, [values]) == told(experiment, [values[:cut], values])


@pytest.mark.parametrize(("worse", "rate", "stop"), [(4, 0.5, False), (5, 0.25, False), (10, 0.125, True)])
def test_rate_and_patience(tiny, worse, rate, stop):
    experiment = replace(tiny, schedule="plateau", early_stopping=10)
    assert told(experiment, [[0.9] + worse * [0.5]]) == (rate, stop)


def test_without_plateau_and_patience_nothing_steers(tiny):
    assert steering(replace(tiny, schedule="cosine", early_stopping=0)) == []


def test_tensorboard_shows_the_slice_between_its_neighbours(tmp_path):
    images = np.zeros((4, 32, 32, 3), np.float32) + np.array([0.2, 0.6, 0.9], np.float32)
    model = tf.keras.Sequential([tf.keras.layers.Conv2D(1, 1, bias_initializer=tf.keras.initializers.Constant(-9))])
    model.build((None, 32, 32, 3))
    overlays = Overlays(str(tmp_path), tf.data.Dataset.from_tensors((images, np.zeros((4, 32, 32, 1), np.uint8))))
    model.layers[0].kernel.assign(tf.zeros_like(model.layers[0].kernel))
    overlays.set_model(model)
    overlays.on_epoch_end(0)
    (file,) = tmp_path.glob("*tfevents*")
    (value,) = (value for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value)
    for png in value.tensor.string_val[2:]:  # after width and height
        assert (tf.io.decode_png(png).numpy() == round(0.6 * 255)).all()
