from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tf_liver.data.augment import POLICIES, Augmenter

rng = np.random.default_rng(0)
IMAGE = rng.random((50, 60), dtype=np.float32)
MASK = (IMAGE > 0.5).astype(np.uint8)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_seed_one_sample_from_any_thread(policy):
    augmenter = Augmenter(policy, 32)
    expected = [augmenter(IMAGE, MASK, seed) for seed in range(20)]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda seed: augmenter(IMAGE, MASK, seed), range(20)))
    for (image, mask), (image_again, mask_again) in zip(expected, again, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(mask, mask_again)
        assert (image.shape, image.dtype, mask.dtype) == ((32, 32), np.float32, np.uint8)
        assert set(np.unique(mask)) <= {0, 1}


def sides(policy):
    """Which side a mark at the left, and one at the top, end up on."""
    image = np.zeros((32, 32), np.float32)
    image[2:6, 8:24], image[8:24, 2:4] = 1.0, 0.5
    found = set()
    for seed in range(40):
        out, _ = Augmenter(policy, 32)(image, image.astype(np.uint8), seed)
        rows, _ = np.argwhere(out > 0.8).mean(axis=0)
        marks = np.argwhere((out > 0.3) & (out < 0.6)).mean(axis=0)
        found.add(("top" if rows < 16 else "bottom", "left" if marks[1] < 16 else "right"))
    return found


def test_flip_rotate_flips_both_ways_and_rotate_never():
    assert sides("flip_rotate") == {("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right")}
    assert sides("rotate") == sides("resize") == {("top", "left")}


def test_image_and_mask_move_together():
    rows, columns = np.mgrid[:50, :60]
    disc = ((rows - 15) ** 2 + (columns - 20) ** 2 < 100).astype(np.uint8)
    for seed in range(20):
        image, mask = Augmenter("flip_rotate", 64)(disc.astype(np.float32), disc, seed)
        assert ((image > 0.5) == mask).mean() > 0.98
