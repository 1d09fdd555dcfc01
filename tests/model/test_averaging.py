"""Averaged weights against the formula, and what must not move them."""

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import replace
from tf_liver.model.dropout import Dropout
from tf_liver.model.losses import LOSSES
from tf_liver.model.optimizer import FusedAdam
from tf_liver.model.steps import Steps
from tf_liver.model.unet import compile_network

IMAGES = np.random.default_rng(0).random((8, 16, 16, 1), np.float32)
BATCHES = tf.data.Dataset.from_tensors((IMAGES, (IMAGES > 0.7).astype(np.uint8))).repeat()


def small(optimizer, *before, momentum=0.99):
    """A convolution and its batch normalisation, which is all that averages can get wrong."""
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [layers.Conv2D(4, 3), layers.BatchNormalization(momentum=momentum), *before, layers.Conv2DTranspose(1, 3)]
    )
    network.build((None, 16, 16, 1))
    network.compile(optimizer, lambda masks, logits: 1000 * LOSSES["bce"](masks, logits))
    return network


def values(network):
    return [variable.numpy().astype(np.float64) for variable in network.variables]


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_averages_follow_weights_and_statistics_by_the_formula(decay):
    steps = Steps(small(FusedAdam(0.01)), tf.distribute.get_strategy(), decay)
    batches, expected = iter(BATCHES), values(steps.network)
    for number in range(1, 8):
        steps.train(batches, tf.constant(1))
        keep = min(decay, (1 + number) / (10 + number))
        expected = [keep * old + (1 - keep) * new for old, new in zip(expected, values(steps.network), strict=True)]
        for ours, theirs in zip(values(steps.judged), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_without_momentum_they_average_what_each_batch_showed():
    """Moving averages that follow at once add no delay of their own."""
    steps = Steps(small(FusedAdam(0.01), momentum=0.0), tf.distribute.get_strategy(), 0.9)
    batches, expected = iter(BATCHES), np.zeros(4)
    for number in range(1, 4):
        shown = steps.network.layers[0](IMAGES).numpy().mean((0, 1, 2))
        steps.train(batches, tf.constant(1))
        np.testing.assert_allclose(steps.network.layers[1].moving_mean, shown, atol=1e-5)
        expected += (1 - (1 + number) / (10 + number)) * (shown - expected)
        np.testing.assert_allclose(steps.judged.layers[1].moving_mean, expected, atol=1e-5)


def test_validation_is_that_of_the_averages():
    steps = Steps(small(FusedAdam(0.1)), tf.distribute.get_strategy(), 0.9)
    steps.train(iter(BATCHES), tf.constant(5))
    steps.results()
    steps.validate(iter(BATCHES), tf.constant(1))
    masks = (IMAGES > 0.7).astype(np.uint8)
    losses = [float(steps.network.loss(masks, net(IMAGES, training=False))) for net in (steps.judged, steps.network)]
    assert steps.results()["loss"] == pytest.approx(losses[0], rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_a_step_that_loss_scaling_skips_does_not_spoil_them():
    """Gradients overflow at this scale, which is halved until they do not: no weight moves, and no average of one."""
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(FusedAdam(0.01), initial_scale=2.0**127)
    steps = Steps(small(scaled), tf.distribute.get_strategy(), 0.9)
    batches, before = iter(BATCHES), [variable.numpy() for variable in steps.judged.trainable_variables]
    steps.train(batches, tf.constant(4))
    assert float(scaled.loss_scale) == 2.0**123
    for old, new in zip(before, steps.judged.trainable_variables, strict=True):
        np.testing.assert_allclose(new.numpy(), old, rtol=1e-6)
    steps.train(batches, tf.constant(30))
    assert float(scaled.loss_scale) > 2.0**93
    assert not np.allclose(steps.judged.trainable_variables[0], before[0], rtol=1e-3)
    assert all(np.isfinite(value).all() for value in values(steps.judged))


def test_training_itself_does_not_change():
    found = []
    for decay in (0.0, 0.9):
        tf.keras.utils.set_random_seed(0)
        steps = Steps(small(FusedAdam(0.01)), tf.distribute.get_strategy(), decay)
        steps.train(iter(BATCHES), tf.constant(3))
        found.append(values(steps.network))
        assert (steps.judged is steps.network) == (not decay)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_written_variables_are_all_that_the_next_steps_need(tiny):
    """To the last bit, with all on that remembers something or draws something at random."""
    changes = {"optimizer": "adamw", "weight_decay": 0.1, "warmup_epochs": 1.0, "schedule": "cosine"}

    def made():
        network = small("sgd", Dropout(0.5, name="drop"))
        compile_network(network, replace(tiny, **changes), steps_per_epoch=4, seed=3)
        return Steps(network, tf.distribute.get_strategy(), 0.9)

    steps, other = made(), made()
    steps.train(iter(BATCHES), tf.constant(3))
    other.write(steps.read())
    for one in (steps, other):
        one.train(iter(BATCHES), tf.constant(2))
    for variable, a, b in zip(steps.variables(), steps.read(), other.read(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=variable.name)
