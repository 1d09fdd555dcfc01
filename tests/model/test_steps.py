"""Steps in one call against Keras' own fit, a batch at a time."""

import numpy as np
import pytest
import tensorflow as tf

from tf_liver.experiment import replace
from tf_liver.model.metrics import liver_metrics
from tf_liver.model.steps import Steps
from tf_liver.model.unet import build_network, compile_network


def batches(sizes=(8, 8, 3, 5, 8)):
    rng = np.random.default_rng(0)
    for n in sizes:
        images = rng.random((n, 32, 32, 1), np.float32)
        yield images, (images > 0.7).astype(np.uint8)


def dataset():
    shape = (None, 32, 32, 1)
    return tf.data.Dataset.from_generator(
        batches, output_signature=(tf.TensorSpec(shape), tf.TensorSpec(shape, tf.uint8))
    )


def made(experiment):
    tf.keras.utils.set_random_seed(0)
    network = build_network(experiment)
    compile_network(network, experiment, 5)
    return network


@pytest.fixture(scope="module")
def stepped(tiny):
    """Steps that have trained on all batches, what they came to, and how often they were traced."""
    steps = Steps(made(tiny), tf.distribute.get_strategy())
    iterator = iter(dataset())
    steps.train(iterator, tf.constant(2))
    waited = steps.train(iterator, tf.constant(3))
    return steps, steps.results(), float(waited)


def test_losses_metrics_and_weights_are_those_of_keras(tiny, stepped):
    steps, results, _ = stepped
    keras = made(tiny)
    keras.compile(keras.optimizer, keras.loss, metrics=liver_metrics())
    history = keras.fit(dataset(), verbose=0).history
    assert results == pytest.approx({name: values[0] for name, values in history.items()}, rel=1e-6)
    for ours, theirs in zip(steps.network.weights, keras.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5, err_msg=ours.name)


@pytest.mark.slow
def test_xla_takes_the_same_steps(tiny):
    """At a rate at which rounding does not grow: this checks every part of a step, Adam's kernel and metrics too."""
    calm = replace(tiny, learning_rate=1e-6, optimizer="adamw", weight_decay=0.01)
    found = []
    for xla in (False, True):
        steps = Steps(made(calm), tf.distribute.get_strategy(), 0.5, xla)
        steps.train(iter(dataset()), tf.constant(2))
        found.append(steps.results())
        steps.validate(iter(dataset()), tf.constant(1))
        found[-1] |= {f"val_{name}": value for name, value in steps.results().items()}
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_validation_is_that_of_keras(tiny, stepped):
    steps, *_ = stepped
    steps.validate(iter(dataset()), tf.constant(5))
    keras = tf.keras.Model(steps.network.inputs, steps.network.outputs)
    keras.compile(loss=steps.network.loss, metrics=liver_metrics())
    expected = keras.evaluate(dataset(), return_dict=True, verbose=0)
    assert steps.results() == pytest.approx(expected, rel=1e-6)
    assert steps.results()["loss"] == 0  # forgotten


def test_batches_of_any_size_are_traced_twice_at_most(stepped):
    """Once more after the first call made variables, as tf.function does."""
    steps, *_ = stepped
    assert steps.train.experimental_get_tracing_count() <= 2


def test_the_wait_for_input_is_seconds(stepped):
    assert 0 < stepped[2] < 10


def test_written_variables_are_read_back(tiny, stepped):
    steps, *_ = stepped
    steps.train(iter(dataset()), tf.constant(1))
    values = steps.read()
    other = Steps(made(tiny), tf.distribute.get_strategy())
    other.write(values)
    for variable, a, b in zip(steps.variables(), values, other.read(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=variable.name)
    assert other.loss() == steps.loss()
    steps.results()


@pytest.mark.slow  # float16 convolutions take 20 s on a CPU
def test_row_58_an_all_liver_float16_batch_is_finite_and_its_loss_scale_is_kept(tiny):
    """16 × 256 × 256 sums pass float16's 65,504; the sums here are those of 16 × 32 × 32 and of the losses' tests."""
    steps = Steps(made(replace(tiny, precision="mixed_float16")), tf.distribute.get_strategy())
    ones = tf.data.Dataset.from_tensors((tf.ones((16, 32, 32, 1)), tf.ones((16, 32, 32, 1), tf.uint8)))
    steps.train(iter(ones), tf.constant(1))
    assert all(np.isfinite(v) for v in steps.results().values())
    names = [v.name for v in steps.variables()]
    assert {"current_loss_scale:0", "good_steps:0"} <= set(names)
    assert len({id(v) for v in steps.variables()}) == len(names)
