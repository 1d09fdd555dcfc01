"""Patience and learning rate follow from the rows alone, as Keras' callbacks have it."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_liver.experiment import replace
from tf_liver.history import MONITOR, best_row, has_stalled, learning_rate, write_log

scores = st.lists(st.sampled_from([0.0, 0.3, 0.30005, 0.5, 0.7, 0.7002, 0.9]), min_size=1, max_size=30)


def rows_of(values):
    return [{"epoch": n, MONITOR: value} for n, value in enumerate(values)]


class Stand:
    """What Keras' callbacks want of a model."""

    def __init__(self, rate):
        self.optimizer = tf.keras.optimizers.SGD(rate)
        self.stop_training = False


@settings(max_examples=50, deadline=None)
@given(scores)
def test_the_learning_rate_is_that_of_reduce_on_plateau(tiny, values):
    experiment = replace(tiny, schedule="plateau", learning_rate=0.5)
    keras = tf.keras.callbacks.ReduceLROnPlateau(MONITOR, mode="max", factor=0.5, patience=5)
    keras.set_model(Stand(0.5))
    keras.on_train_begin()
    for n, row in enumerate(rows_of(values)):
        keras.on_epoch_end(n, dict(row))
    assert learning_rate(rows_of(values), experiment) == float(keras.model.optimizer.learning_rate)
    assert learning_rate(rows_of(values), replace(experiment, schedule="constant")) == 0.5


@settings(max_examples=50, deadline=None)
@given(scores, st.integers(1, 6))
def test_patience_is_that_of_early_stopping(values, patience):
    keras = tf.keras.callbacks.EarlyStopping(MONITOR, mode="max", patience=patience)
    keras.set_model(Stand(0.5))
    keras.on_train_begin()
    for n, row in enumerate(rows_of(values)):
        keras.on_epoch_end(n, dict(row))
        assert has_stalled(rows_of(values)[: n + 1], patience) == keras.model.stop_training
        if keras.model.stop_training:
            break


@given(scores)
def test_the_first_of_the_best_is_best(values):
    assert best_row(rows_of(values))["epoch"] == int(np.argmax(values))


def test_before_the_first_epoch():
    assert best_row([]) is None
    assert not has_stalled([], 3)


def test_patience_without_end():
    assert not has_stalled(rows_of([0.9] + [0.1] * 99), 0)


def test_the_log_is_written_whole(tmp_path):
    rows = [{"epoch": 0, "loss": 0.1 + 0.2, "dice": 1 / 3}, {"epoch": 1, "loss": 1e-9, "dice": 0.5}]
    write_log(tmp_path / "log.csv", rows)
    with open(tmp_path / "log.csv") as file:
        found = list(csv.DictReader(file))
    assert [{k: pytest.approx(float(v), abs=0) for k, v in row.items()} for row in found] == rows
    assert list(found[0]) == ["epoch", "dice", "loss"]
