import numpy as np
import pytest

from tf_liver.serving.variants import apart

SLICES = np.zeros((2, 8, 8), np.float32)


def answering(*regions):
    """A predictor whose regions are so many voxels in a row, out of 128."""
    counts = np.arange(SLICES.size).reshape(SLICES.shape)
    return lambda slices: np.stack([counts < region for region in regions], -1).astype(np.float32).squeeze()


def test_dice_of_one_region():
    assert apart(answering(30), answering(10), SLICES) == {"dice": 0.5, "max_probability_difference": 1.0}


def test_a_large_liver_does_not_hide_a_lost_tumour():
    found = apart(answering(100, 2), answering(100, 6), SLICES)
    assert found["dice"] == pytest.approx(0.5)
    assert apart(answering(100, 6), answering(100, 6), SLICES)["dice"] == 1.0
