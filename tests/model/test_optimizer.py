"""Adam and AdamW against Keras' own, and the learning rate of each step against the formula."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import replace
from tf_liver.model.optimizer import FusedAdam, make_optimizer

adamw = tf.keras.optimizers.AdamW


@pytest.mark.parametrize(("theirs", "decay"), [(tf.keras.optimizers.Adam, {}), (adamw, {"weight_decay": 0.3})])
def test_the_same_numbers_as_keras(theirs, decay):
    """Five steps of each on the same gradients; vectors, as biases are, do not decay."""
    random = np.random.default_rng(0)
    start = [random.normal(size=shape).astype(np.float32) for shape in [(3, 3, 4, 5), (5,)]]
    found = []
    for kind in (theirs, FusedAdam):
        optimizer = kind(0.01, **decay)
        variables = [tf.Variable(start[0], name="kernel"), tf.Variable(start[1], name="bias")]
        if kind is adamw:
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        for n in range(5):
            optimizer.apply_gradients([(tf.sin(v) + n * 1e-3, v) for v in variables])
        found.append([v.numpy() for v in (*variables, *optimizer.variables)])
    for a, b in zip(
        *found, strict=True
    ):  # in float32, 1 − β₂ is 1.3e-5 too small or large: that moves steps by half of it
        np.testing.assert_allclose(b, a, rtol=3e-5, atol=5e-7)


def rates(experiment, steps_per_epoch, steps):
    """Learning rates that steps were really taken with: how far one weight fell, since Adam of no memory is a sign."""
    optimizer, weight, found = make_optimizer(experiment, steps_per_epoch), tf.Variable(0.0), []
    optimizer.beta_1 = optimizer.beta_2 = 0.0

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.constant(1.0), weight)])

    for _ in range(steps):
        before = float(weight)
        step()
        found.append(before - float(weight))
        assert float(optimizer.rate(optimizer.iterations - 1)) == pytest.approx(found[-1], abs=1e-6)
    return found


@pytest.mark.parametrize("epochs", [4, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("schedule", ["constant", "plateau", "cosine"])
def test_the_rate_of_each_step(tiny, schedule, warmup, epochs):
    """Ten steps an epoch; with more epochs warm-up stays as it was, and cosine follows the longer curve."""
    changes = {"learning_rate": 0.1, "warmup_epochs": warmup, "epochs": epochs}
    found = rates(replace(tiny, schedule=schedule, **changes), 10, 10 * epochs)
    first, total = int(10 * warmup), 10 * epochs
    for t, rate in enumerate(found):
        after = 0.05 * (1 + math.cos(math.pi * (t - first) / (total - first))) if schedule == "cosine" else 0.1
        assert rate == pytest.approx(0.1 * t / first if t < first else after, abs=1e-5)


def test_plateau_and_warm_up_multiply(tiny):
    optimizer = make_optimizer(replace(tiny, schedule="plateau", warmup_epochs=1.0, learning_rate=0.1), 10)
    optimizer.learning_rate = 0.05
    assert [float(optimizer.rate(tf.constant(t))) for t in (0, 5, 10, 50)] == pytest.approx([0, 0.025, 0.05, 0.05])
