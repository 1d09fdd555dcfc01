"""Dropout of a seed and a step."""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import replace
from tf_liver.model.dropout import Dropout
from tf_liver.model.folding import folded
from tf_liver.model.unet import build_network, compile_network

ONES = np.ones((6, 8, 8, 40), np.float32)


@dataclass
class Counter:
    """What an optimizer counts."""

    iterations: tf.Variable


def drawn(seed=0, step=0, name="a", shape=(None, 1, 1, None)):
    layer = Dropout(0.3, shape, name=name)
    layer.begin(seed, Counter(tf.Variable(step, dtype=tf.int64)))
    return layer(ONES, training=True).numpy()


def test_the_same_seed_and_step_draw_the_same_and_others_others():
    np.testing.assert_array_equal(drawn(3, 5), drawn(3, 5))
    for other in (drawn(3, 6), drawn(4, 5), drawn(3, 5, "b")):
        assert not np.array_equal(drawn(3, 5), other)


def test_whole_channels_are_dropped_and_the_mean_stays():
    found = drawn()
    assert {round(float(v), 5) for v in np.unique(found)} == {0.0, round(1 / 0.7, 5)}
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))
    assert np.mean(found == 0) == pytest.approx(0.3, abs=0.1)
    assert drawn(shape=None).mean() == pytest.approx(1, abs=0.03)


def test_replicas_draw_masks_of_their_own():
    cpu = tf.config.list_logical_devices("CPU")[0].name
    layer = Dropout(0.5)
    layer.begin(0, Counter(tf.Variable(0, dtype=tf.int64)))

    class Context:  # of one of two replicas: a single CPU has one
        num_replicas_in_sync = 2

        def __init__(self, number):
            self.replica_id_in_sync_group = number

    masks = []
    for number in (0, 1):
        with pytest.MonkeyPatch.context() as patch, tf.device(cpu):
            patch.setattr(tf.distribute, "get_replica_context", lambda number=number: Context(number))
            masks.append(layer(ONES, training=True).numpy())
    assert not np.array_equal(*masks)


@pytest.mark.slow
def test_inference_folding_and_weights_know_nothing_of_it(tiny, tmp_path):
    """The weights of a network with dropout are those of one without; so are its logits and those of the folded one."""
    networks = [build_network(replace(tiny, decoder_dropout=rate)) for rate in (0.5, 0.0)]
    networks[0].save_weights(tmp_path / "with.weights.h5")
    networks[1].load_weights(tmp_path / "with.weights.h5")
    images = np.random.default_rng(0).random((2, 32, 64, 1), np.float32)
    logits = [network(images, training=False).numpy() for network in networks]
    np.testing.assert_array_equal(*logits)
    np.testing.assert_allclose(folded(networks[0], "float32")(images), logits[1], atol=1e-4)


def test_training_of_the_network_drops(tiny):
    network = build_network(replace(tiny, decoder_dropout=0.5))
    compile_network(network, tiny, 5)
    images, body = tf.random.uniform((2, 32, 32, 1)), network.get_layer("decoder_dropout")
    features = tf.keras.Model(network.input, body.output)(images, training=True).numpy()
    assert np.mean(features.any((1, 2))) < 0.9
    np.testing.assert_array_equal(network(images, training=True), network(images, training=True))
    network.optimizer.iterations.assign_add(1)
    assert not np.array_equal(network(images, training=True), network(images + 0, training=False))


@pytest.mark.slow
def test_a_backbones_own_dropout_is_ours_too(tiny):
    network = build_network(replace(tiny, backbone="efficientnetb0"))
    kinds = {type(layer) for layer in network.layers if "dropout" in type(layer).__name__.lower()}
    assert kinds == {Dropout}
    compile_network(network, tiny, 5)
    assert np.isfinite(network(tf.zeros((2, 32, 32, 1)), training=True)).all()
