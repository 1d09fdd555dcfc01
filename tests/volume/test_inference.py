import numpy as np
import pytest

from tf_liver.volume.inference import segment_volume
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
