"""How many steps batch normalisation's averages need, beside Keras' own layer."""

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import load, replace
from tf_liver.model.batch_norm import UNSETTLED, unsettled


@pytest.mark.parametrize(("momentum", "steps"), [(0.99, 299), (0.9, 29), (0.8, 14), (0.5, 5)])
def test_the_steps_needed_are_those_of_the_layer(momentum, steps):
    """A layer that sees mean 1 forgets its own 0: after that many steps UNSETTLED or less of it is left."""
    layer = tf.keras.layers.BatchNormalization(momentum=momentum)
    batch = 1 + tf.constant([[-1.0], [1.0]])
    left = []
    for _ in range(steps):
        layer(batch, training=True)
        left.append(1 - float(layer.moving_mean[0]))
    assert left[-1] <= UNSETTLED < left[-2]
    experiment = replace(load("baseline"), batch_norm_momentum=momentum, epochs=1)
    assert unsettled(experiment, steps) == ""
    assert f"batch_norm_momentum {momentum:g} needs {steps} steps" in unsettled(experiment, steps - 1)


def test_what_it_tells_to_set_is_enough():
    few = replace(load("window"), epochs=3)
    text = unsettled(few, 11)
    assert text == (
        "batch_norm_momentum 0.99 needs 299 steps to settle, and this training has 33: its scores will be too low; "
        "--batch-norm-momentum 0.91 or --epochs 28 mends that"
    )
    assert unsettled(replace(few, batch_norm_momentum=0.91), 11) == ""
    assert unsettled(replace(few, epochs=28), 11) == ""
    assert unsettled(replace(few, epochs=27), 11) != ""


@pytest.mark.parametrize(("name", "steps"), [("demo", 9), ("best_cpu", 1), ("best", 500), ("baseline", 500)])
def test_experiments_at_their_size_are_not_warned_of(name, steps):
    assert unsettled(load(name), steps) == ""


def test_advice_is_always_a_value_that_the_field_takes():
    one_epoch = replace(load("baseline"), epochs=1)
    for momentum in np.linspace(0, 0.9999, 40).tolist():
        for steps in (1, 7, 1000):
            experiment = replace(one_epoch, batch_norm_momentum=momentum)
            if text := unsettled(experiment, steps):
                advised = float(text.split("--batch-norm-momentum ")[1].split()[0])
                assert unsettled(replace(experiment, batch_norm_momentum=advised), steps) == ""
