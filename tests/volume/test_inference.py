import time
from unittest.mock import Mock

import numpy as np
import pytest

from tf_liver.volume.inference import (
    BATCH_SLICES,
    THREADS,
    probability_batches,
    segment_volume,
)
from tf_liver.volume.overlay import GREEN, MAGENTA, WHITE, contour, overlay


def bright(images):
    """A network that calls everything above 100 HU liver."""
    return (images > 100).astype(np.float32)


@pytest.mark.parametrize("depth", [1, 16, 17, 40])
def test_every_slice_is_segmented_once_and_in_order(depth):
    slices = np.random.default_rng(0).integers(0, 200, (depth, 7, 9)).astype(np.int16)
    label_map = segment_volume(bright, slices)
    assert label_map.dtype == np.uint8
    np.testing.assert_array_equal(label_map, slices > 100)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN in slices 0 to 2"):
        segment_volume(lambda images: np.full(images.shape, np.nan), np.zeros((3, 4, 4)))
    late = np.zeros((40, 4, 4))
    late[35, 1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN in slices 32 to 39"):
        segment_volume(lambda images: images, late)


def test_probabilities_come_in_order_and_few_at_a_time():
    """The first batches are the slowest, so that later ones are done before them."""
    begun = []

    def slow_at_first(images):
        begun.append(int(images[0, 0, 0]))
        time.sleep(0.05 if len(begun) < 3 else 0)
        return images / 1000

    slices = np.broadcast_to(np.arange(160, dtype=np.int16)[:, None, None], (160, 2, 2))
    batches = probability_batches(slow_at_first, slices)
    for number, (first, probability) in enumerate(batches):
        assert first == number * BATCH_SLICES
        np.testing.assert_allclose(probability, slices[first : first + len(probability)] / 1000, rtol=1e-6)
        assert len(begun) <= number + 1 + THREADS + 1
    assert sorted(begun) == list(range(0, 160, BATCH_SLICES))


def test_an_error_of_the_predictor_comes_through():
    with pytest.raises(RuntimeError, match="out of memory"):
        segment_volume(Mock(side_effect=RuntimeError("out of memory"), neighbours=0), np.zeros((40, 4, 4)))


def test_contour_is_the_inner_border():
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    expected = mask.copy()
    expected[2, 2] = False
    np.testing.assert_array_equal(contour(mask), expected)
    assert contour(np.ones((3, 3), bool)).sum() == 8


def test_overlay_is_seen_as_radiologists_see_it():
    """The last row (anterior) comes to the top, the last column (the patient's right) to the left."""
    grey = np.zeros((320, 320), np.float32)
    reference, prediction = np.zeros((2, 320, 320), bool)
    reference[-1, -1] = prediction[0, -1] = reference[-1, 0] = prediction[-1, 0] = True
    picture = overlay(grey, reference, prediction)
    assert picture.shape == (320, 320, 3)
    assert tuple(picture[0, 0]) == GREEN
    assert tuple(picture[-1, 0]) == MAGENTA
    assert tuple(picture[0, -1]) == WHITE
    assert overlay(grey[:100, :80], reference[:100, :80], prediction[:100, :80]).shape == (400, 320, 3)
