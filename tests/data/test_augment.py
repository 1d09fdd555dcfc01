from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tf_liver.data.augment import POLICIES, Augmenter, WarpAugmenter
from tf_liver.experiment import AUGMENTATIONS, MIRRORING, replace

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


def test_what_is_told_of_the_policies_is_so():
    assert tuple(POLICIES) == AUGMENTATIONS
    flipping = {name for name in POLICIES if any("Flip" in type(step).__name__ for step in POLICIES[name].moves())}
    assert flipping == set(MIRRORING)


@pytest.mark.parametrize("normalisation", ["window", "clip_max"])
@pytest.mark.parametrize("size", [0, 32])
@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_was_done_the_network_sees_its_own_range(tiny, policy, size, normalisation):
    changes = {"augmentation": policy, "image_size": size, "normalisation": normalisation}
    augmenter = WarpAugmenter(replace(tiny, **changes))
    hu = np.random.default_rng(1).normal(50, 300, (40, 50)).astype(np.int16)
    images, masks = augmenter.batch([(hu[np.newaxis], (hu > 100).astype(np.uint8), seed) for seed in range(20)], 20)
    assert (images.dtype, masks.dtype) == (np.float32, np.uint8)
    assert 0 <= images.min() < 0.01
    assert 0.5 < images.max() <= 1
    assert set(np.unique(masks)) == {0, 1}


@pytest.mark.parametrize("size", [0, 32])
def test_no_samples_make_an_empty_batch(tiny, size):
    """As a shard gets where a last batch has fewer slices than there are shards."""
    images, masks = WarpAugmenter(replace(tiny, image_size=size, neighbours=1)).batch([], 0)
    assert (len(images), len(masks), images.shape[3], masks.shape[3]) == (0, 0, 3, 1)


@pytest.mark.parametrize("policy", ["flip_rotate", "affine"])
def test_image_and_mask_move_together(policy):
    rows, columns = np.mgrid[:50, :60]
    disc = ((rows - 15) ** 2 + (columns - 20) ** 2 < 100).astype(np.uint8)
    for seed in range(20):
        image, mask = Augmenter(policy, 64)(disc.astype(np.float32), disc, seed)
        assert ((image > 0.5) == mask).mean() > 0.98


@pytest.mark.parametrize("policy", ["flip_rotate", "affine"])
def test_the_fast_form_puts_a_blob_where_the_plain_form_does(tiny, policy):
    """To a tenth of a pixel each, and without bias."""
    experiment = replace(tiny, image_size=64, augmentation=policy, window_hu=(0.0, 100.0))
    fast, plain, off = WarpAugmenter(experiment), Augmenter(policy, 64), []
    rows, columns = np.mgrid[:128, :128]
    for seed in range(60):
        row, column = np.random.default_rng(seed).uniform(45, 80, 2)
        blob = (100 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 300)).astype(np.float32)
        images, _ = fast.batch([(blob[np.newaxis], np.zeros(blob.shape, np.uint8), seed)], 1)
        expected, _ = plain(blob / 100, np.zeros(blob.shape, np.uint8), seed)
        off.append(np.argwhere(images[0, ..., 0] > 0.4).mean(axis=0) - np.argwhere(expected > 0.4).mean(axis=0))
    assert np.abs(off).max() < 0.1
    assert np.abs(np.mean(off, axis=0)).max() < 0.01
