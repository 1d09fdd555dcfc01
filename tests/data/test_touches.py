import numpy as np
import pytest

from tf_liver.data.touches import elastic, erase, left_twice, scanner, thin

SIDE = 64
AIR, FAT, LIVER, BONE = -0.5, 0.0, 0.6, 1.5  # as a window with its margin gives them


def body(channels=1):
    """A square of fat in air, in it one of liver and one of bone: images (S, S, C) and the mask of the liver."""
    images = np.full((SIDE, SIDE, channels), AIR, np.float32)
    images[8:56, 8:56], images[16:48, 12:32], images[16:48, 36:52] = FAT, LIVER, BONE
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[16:48, 12:32] = 1
    return images, mask


def touched(touch, number=200, channels=1):
    images, mask = body(channels)
    return [touch(images, mask, np.random.default_rng(seed)) for seed in range(number)]


def test_scanners_differ_as_the_window_would_show_it():
    """Organs are darker here and brighter there; what lies beyond the window stays black or, nearly always, white."""
    found = touched(scanner)
    images = np.stack([image[..., 0] for image, _ in found])
    liver, bone = images[:, 22:42, 16:28].mean(axis=(1, 2)), images[:, 22:42, 42:46].mean(axis=(1, 2))
    air = images[:, :3].mean(axis=(1, 2))
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert 0.05 < liver.std() < 0.2
    assert liver.mean() == pytest.approx(LIVER, abs=0.05)
    assert np.quantile(bone, 0.05) > 0.95
    assert bone.min() > 0.8  # darkened and with less contrast, both at once
    assert air.max() < 0.1
    assert all((mask == body()[1]).all() for _, mask in found)


def test_each_kind_of_change_happens_and_some_samples_stay_as_they_are():
    cut, inside = np.clip(body()[0], 0, 1), (slice(20, 44), slice(16, 28), 0)
    images = [image for image, _ in touched(scanner)]
    noisy = np.array([image[inside].std() > 0.004 for image in images])
    brightened = np.array([abs(image[inside].mean() - LIVER) > 0.02 for image in images])
    blurred = np.array([image[30, 33, 0] > 0.05 for image in images])  # fat, two pixels from liver
    same = np.array([np.array_equal(image, cut) for image in images])
    assert 0.28 < noisy.mean() < 0.5  # of 0.45 some are too faint to be seen, or blurred
    assert 0.6 < brightened.mean() < 0.85  # by any of three, each in 0.45
    assert 0.12 < blurred.mean() < 0.35
    assert 0.02 < same.mean() < 0.1  # 0.55⁴ · 0.7²


def test_neighbouring_slices_change_alike_but_for_noise():
    alike = [np.ptp(image, axis=2).max() for image, _ in touched(scanner, channels=5)]
    assert 0.5 < np.mean(np.array(alike) < 1e-5) < 0.9
    assert max(alike) > 0.1


def test_elastic_moves_image_and_mask_together_by_little():
    _, mask = body()
    moved = 0
    for image, turned in touched(elastic, channels=5):
        np.testing.assert_array_equal(image[..., :1].repeat(5, axis=2), image)
        liver = (image[..., 0] > FAT + 0.3) & (image[..., 0] < LIVER + 0.01)
        assert (liver == turned).mean() > 0.97
        moved += not np.array_equal(turned, mask)
        rows, columns = np.argwhere(turned).mean(axis=0)
        assert abs(rows - 31.5) < 0.1 * SIDE
        assert abs(columns - 21.5) < 0.1 * SIDE
    assert 70 < moved < 130


@pytest.mark.parametrize("touch", [elastic, erase, scanner, thin])
def test_the_seed_decides_and_the_input_is_kept(touch):
    for (image, mask), (again, mask_again) in zip(touched(touch, 20), touched(touch, 20), strict=True):
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(mask, mask_again)
    images, mask = body()
    touch(images, mask, np.random.default_rng(1))
    np.testing.assert_array_equal(images, body()[0])


def test_what_is_erased_is_one_grey_and_no_liver():
    images, mask = body(channels=3)
    changed = [(image, label) for image, label in touched(erase, channels=3) if not np.array_equal(image, images)]
    assert 0.2 < len(changed) / 200 < 0.4
    for image, label in changed:
        rows, columns, _ = (slice(part.min(), part.max() + 1) for part in np.nonzero(image != images))
        assert np.ptp(image[rows, columns]) == 0
        assert 0 <= image[rows, columns].min() <= image[rows, columns].max() <= 1
        assert max(image[rows, columns].shape[:2]) <= 0.35 * SIDE + 1
        assert not label[rows, columns].any()
        label[rows, columns] = mask[rows, columns]
        np.testing.assert_array_equal(label, mask)


def test_in_thin_slices_the_neighbours_are_the_slice_itself():
    images, mask = np.arange(3, dtype=np.float32) * np.ones((SIDE, SIDE, 1), np.float32), body()[1]
    found = [thin(images, mask, np.random.default_rng(seed)) for seed in range(200)]
    assert all(label is mask for _, label in found)
    same = [bool((image == 1).all()) for image, _ in found]
    assert 0.2 < np.mean(same) < 0.4
    assert all(alike or image is images for alike, (image, _) in zip(same, found, strict=True))


def test_the_left_half_stands_on_both_sides_and_labels_follow():
    """The mark on the patient's right goes, the one on the left comes twice, at equal distances from the middle."""
    images, mask = np.zeros((4, SIDE, 1), np.float32), np.zeros((4, SIDE), np.uint8)
    images[:, 10], images[:, 60], mask[:, 60], mask[:, 20] = 1, 2, 1, 1
    found = [left_twice(images, mask, np.random.default_rng(seed)) for seed in range(400)]
    changed = [(image, label) for image, label in found if image is not images]
    assert 0.05 < len(changed) / len(found) < 0.15
    for image, label in changed:
        (first, second), (left, right) = np.flatnonzero(image[0, :, 0] == 1), np.flatnonzero(label[0])
        assert not (image == 2).any()
        assert (first, left) == (10, 20)
        assert first + second == left + right
        assert abs(left + right + 1 - SIDE) <= 2 * SIDE // 20 + 2
        np.testing.assert_array_equal(image[0], image[3])
