import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tf_liver.data.augment import Augmenter
from tf_liver.data.slices import foreground, normalise, positive_slices
from tf_liver.experiment import load, replace
from tf_liver.model.predictor import native_probability, network_input

BASELINE, WINDOW = load("baseline"), load("window")


def test_clip_max_by_hand():
    image = np.array([[-1000, 0], [50, 200]], np.int16)
    np.testing.assert_array_equal(normalise(image, BASELINE), np.array([[0, 0], [0.25, 1]], np.float32))


def test_each_slice_has_its_own_maximum():
    images = np.array([[[10, 20]], [[10, 40]]], np.int16)
    np.testing.assert_array_equal(normalise(images, BASELINE), [[[0.5, 1]], [[0.25, 1]]])


def test_a_slice_without_positive_values_stays_zero():
    np.testing.assert_array_equal(normalise(np.full((2, 2), -1000, np.int16), BASELINE), np.zeros((2, 2)))
    np.testing.assert_array_equal(normalise(np.zeros((2, 2), np.int16), BASELINE), np.zeros((2, 2)))


def test_window_by_hand():
    narrow = replace(WINDOW, window_hu=(-100, 100))
    image = np.array([-1024, -100, 0, 50, 100, 3000], np.int16)[None]
    np.testing.assert_allclose(normalise(image, narrow)[0], [0, 0, 0.5, 0.75, 1, 1])


@settings(deadline=None, max_examples=50)
@given(
    images=arrays(np.int16, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))),
    experiment=st.sampled_from([BASELINE, WINDOW]),
)
def test_numpy_and_tensorflow_are_one_function(images, experiment):
    ours = normalise(images, experiment)
    theirs = normalise(tf.constant(images, tf.float32), experiment, tf.experimental.numpy)
    assert ours.dtype == np.float32
    assert theirs.dtype == tf.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-7)
    assert np.isfinite(ours).all()
    assert ours.min() >= 0
    assert ours.max() <= 1


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    size=st.sampled_from([0, 32, 64]),
    experiment=st.sampled_from([BASELINE, WINDOW]),
    seed=st.integers(0, 99),
)
def test_training_and_inference_see_the_same_image(height, width, size, experiment, seed):
    """The training side (NumPy, albumentations) and the serving side (TensorFlow), at any slice size."""
    experiment = replace(experiment, image_size=size)
    image = np.random.default_rng(seed).integers(-1024, 1500, (height, width)).astype(np.int16)
    trained, _ = Augmenter("resize", size)(normalise(image, experiment), np.zeros((height, width), np.uint8), 0)
    served = network_input(tf.constant(image[None], tf.float32), experiment)
    assert served.shape[1] % 32 == served.shape[2] % 32 == 0
    np.testing.assert_allclose(trained, served[0, ..., 0].numpy(), atol=2e-5)


@pytest.mark.parametrize("size", [0, 64])
@pytest.mark.parametrize(("height", "width"), [(250, 250), (101, 122), (768, 512), (1, 1)])
def test_the_way_back_has_the_native_size(height, width, size):
    experiment = replace(WINDOW, image_size=size)
    image = tf.zeros((2, height, width))
    back = native_probability(network_input(image, experiment), height, width, size)
    assert back.shape == (2, height, width, 1)


def test_padding_is_undone_exactly():
    experiment = replace(WINDOW, image_size=0)
    images = tf.constant(np.random.default_rng(0).normal(100, 50, (2, 45, 70)), tf.float32)
    back = native_probability(network_input(images, experiment), 45, 70, 0)[..., 0]
    np.testing.assert_array_equal(back, normalise(images.numpy(), experiment))


def test_the_mask_keeps_its_place_when_resized():
    """Nearest-neighbour masks and bilinear images must share one grid: no half-pixel shift."""
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 1
    _, small = Augmenter("resize", 32)(mask.astype(np.float32), mask, 0)
    assert np.argwhere(small).mean(axis=0) == pytest.approx([15.5, 15.5])


def test_tumour_counts_as_liver():
    label = np.zeros((3, 2, 2), np.uint8)
    label[1, 0, 0], label[2, 1, 1] = 2, 1
    np.testing.assert_array_equal(positive_slices(label), [1, 2])
    assert foreground(label).sum() == 2
