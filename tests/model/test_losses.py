import math

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.model.losses import DICE_SMOOTH, LOSSES

NAMES = list(LOSSES)


def maps(values, dtype=tf.float32):
    return tf.constant(np.array(values, np.float32).reshape(1, 1, -1, 1), dtype)


def test_cross_entropy_by_hand():
    loss = LOSSES["bce"](maps([1, 0]), maps([math.log(3), 0.0]))  # probabilities 3/4 and 1/2
    assert float(loss) == pytest.approx((-math.log(0.75) - math.log(0.5)) / 2, rel=1e-6)


def test_dice_by_hand():
    loss = LOSSES["dice"](maps([1, 1, 0]), maps([0.0, 0.0, 0.0]))  # every probability 1/2
    assert float(loss) == pytest.approx(1 - (2 * 1.0 + DICE_SMOOTH) / (2 + 1.5 + DICE_SMOOTH))


def test_the_sum_is_the_sum():
    masks, logits = maps([1, 0, 1]), maps([0.3, -2.0, 1.0])
    assert float(LOSSES["bce_dice"](masks, logits)) == pytest.approx(
        float(LOSSES["bce"](masks, logits)) + float(LOSSES["dice"](masks, logits))
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("liver", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-60000.0, -10.0, 0.0, 10.0, 60000.0])
def test_finite_in_float16_with_finite_gradients(name, liver, logit):
    """16 × 256 × 256 foreground pixels pass float16's largest number, 65,504."""
    masks = tf.fill((16, 256, 256, 1), tf.constant(liver, tf.float16))
    logits = tf.fill((16, 256, 256, 1), tf.constant(logit, tf.float16))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = LOSSES[name](masks, logits)
    assert loss.dtype == tf.float32
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


@pytest.mark.parametrize("name", NAMES)
def test_better_is_lower(name):
    masks = maps([1, 1, 0, 0])
    good, bad = maps([5, 5, -5, -5]), maps([-5, 5, 5, -5])
    assert float(LOSSES[name](masks, good)) < 0.05 < float(LOSSES[name](masks, bad))


@pytest.mark.parametrize("name", NAMES)
def test_eager_and_graph_agree(name):
    masks, logits = maps([1, 0, 1, 0]), maps([0.5, 0.2, -1.0, -2.0])
    assert float(tf.function(LOSSES[name])(masks, logits)) == pytest.approx(float(LOSSES[name](masks, logits)))
