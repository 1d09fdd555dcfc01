"""What the network's channels mean, and what is learnt and counted of them."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tf_liver.experiment import replace
from tf_liver.model import losses
from tf_liver.model.metrics import Dice, with_dice
from tf_liver.model.regions import channels_of, region_masks, region_probability
from tf_liver.model.steps import Steps

HEADS = {"regions": 2, "classes": 3}
LABELS = arrays(np.uint8, (2, 3, 4, 1), elements=st.integers(0, 2))


def logits_of(channels):
    return arrays(np.float32, (2, 3, 4, channels), elements=st.floats(-8, 8, width=32))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def probabilities(logits):
    """Liver and tumour in NumPy, float64."""
    if logits.shape[-1] == 2:
        return sigmoid(logits)
    powers = np.exp(logits.astype(np.float64))
    classes = powers / powers.sum(axis=-1, keepdims=True)
    return np.stack([1 - classes[..., 0], classes[..., 2]], axis=-1)


def masks_of(labels):
    return np.concatenate([labels >= 1, labels == 2], axis=-1).astype(np.float64)


def test_heads_by_hand():
    one, two, three = ([math.log(3)], [math.log(3), 0.0], [0.0, math.log(2), math.log(5)])
    np.testing.assert_allclose(region_probability(tf.constant(one)), [3 / 4], rtol=1e-6)
    np.testing.assert_allclose(region_probability(tf.constant(two)), [3 / 4, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(region_probability(tf.constant(three)), [7 / 8, 5 / 8], rtol=1e-6)
    small = region_probability(tf.constant([20.0, 0.0, -20.0]))  # 1 − background would be 0
    np.testing.assert_allclose(small, [math.exp(-20), math.exp(-40)], rtol=1e-5)


def test_labels_become_nested_regions():
    labels = tf.constant([[0], [1], [2]], tf.uint8)
    np.testing.assert_array_equal(region_masks(labels, 2), [[0, 0], [1, 0], [1, 1]])
    np.testing.assert_array_equal(region_masks(labels[:2], 1), [[0], [1]])


@pytest.mark.parametrize("channels", HEADS.values())
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_losses_are_those_of_numpy(channels, data):
    labels, logits = data.draw(LABELS), data.draw(logits_of(channels))
    p, m = probabilities(logits), masks_of(labels)
    if channels == 2:
        entropy = -(m * np.log(p) + (1 - m) * np.log(1 - p)).mean()
    else:
        classes = np.stack([1 - p[..., 0], p[..., 0] - p[..., 1], p[..., 1]], axis=-1)
        entropy = -np.log(np.take_along_axis(classes, labels.astype(int), axis=-1)).mean()
    axes = (0, 1, 2)
    both, total = (m * p).sum(axes), (m + p).sum(axes)
    dice = (1 - (2 * both + 1) / (total + 1)).mean()
    wrong = 0.7 * (m * (1 - p)).sum(axes) + 0.3 * ((1 - m) * p).sum(axes)
    tversky = ((wrong / (both + wrong + 0.5)) ** 0.75).mean()
    expected = {"bce": entropy, "dice": dice, "focal_tversky": tversky}
    expected |= {"bce_dice": entropy + dice, "bce_focal_tversky": entropy + tversky}
    for name, value in expected.items():
        assert float(losses.LOSSES[name](labels, tf.constant(logits))) == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_focal_tversky_by_hand():
    """Of three pixels two are tumour, one is found, one missed and none invented, each of them surely."""
    labels = tf.constant([2, 2, 0], tf.uint8)[None, None, :, None]
    logits = tf.constant([[50.0, 50.0], [50.0, -50.0], [-50.0, -50.0]])[None, None]
    liver, tumour = 1e-6**0.75, (0.7 / (1 + 0.7 + 0.5)) ** 0.75
    assert float(losses.focal_tversky(labels, logits)) == pytest.approx((liver + tumour) / 2, rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(labels=LABELS, logits=logits_of(2))
def test_even_tversky_without_its_power_is_soft_dice(labels, logits):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MISSED", 0.5), ("INVENTED", 0.5), ("POWER", 1)):
            patch.setattr(losses, f"TVERSKY_{name}", value)
        found = losses.focal_tversky(labels, tf.constant(logits))
    assert float(found) == pytest.approx(float(losses.soft_dice(labels, tf.constant(logits))), abs=1e-5)


@pytest.mark.parametrize("name", losses.LOSSES)
@pytest.mark.parametrize("channels", HEADS.values())
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("logit", [-60000.0, 0.0, 60000.0])
def test_finite_in_float16_with_finite_gradients(name, channels, label, logit):
    labels = tf.fill((4, 32, 32, 1), tf.constant(label, tf.uint8))
    values = tf.constant(np.linspace(-logit, logit, channels), tf.float16)
    logits = tf.Variable(tf.broadcast_to(values, (4, 32, 32, channels)))
    with tf.GradientTape() as tape:
        loss = losses.LOSSES[name](labels, logits)
    assert loss.dtype == tf.float32
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


@pytest.mark.parametrize("head", HEADS)
def test_steps_count_each_region(tiny, head):
    """Metrics of one validation by hand, and the mean of both Dice, which steers."""
    experiment = replace(tiny, task="tumour", tumour_head=head)
    channels = channels_of(experiment)
    assert channels == HEADS[head]
    network = tf.keras.Sequential([tf.keras.layers.Conv2D(channels, 3, padding="same", input_shape=(8, 8, 1))])
    network.compile(tf.keras.optimizers.Adam(), losses.LOSSES["bce_focal_tversky"])
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, (6, 8, 8, 1), np.uint8)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    steps = Steps(network, tf.distribute.get_strategy())
    steps.validate(iter(batches), tf.constant(2))
    found = steps.results()
    claimed, true = probabilities(network(images).numpy()) >= 0.5, masks_of(labels) > 0
    dices = [2 * (c & t).sum() / (c.sum() + t.sum()) for c, t in zip(claimed.T, true.T, strict=True)]
    assert [found["liver_dice"], found["tumour_dice"]] == pytest.approx(dices, rel=1e-5)
    assert found["dice"] == pytest.approx(np.mean(dices), rel=1e-5)
    assert found["pixel_accuracy"] == pytest.approx((claimed == true)[..., 0].mean(), rel=1e-5)
    before = network.get_weights()[0].copy()
    steps.train(iter(batches), tf.constant(2))
    assert np.abs(network.get_weights()[0] - before).max() > 0


def test_a_liver_models_results_stay_as_they_are():
    assert with_dice({"loss": 1.0, "dice": 0.3}) == {"loss": 1.0, "dice": 0.3}


def test_a_region_survives_serialisation():
    metric = Dice("tumour_dice", region=1)
    again = tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric))
    again.update_state(np.array([[1, 0], [0, 1]]), np.array([[0.0, 0.9], [0.0, 0.9]]))
    assert (again.name, float(again.result())) == ("tumour_dice", pytest.approx(2 / 3))
