"""What steers a training goes on where it stood when it is told the epochs so far again."""

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_liver.callbacks import steering
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
