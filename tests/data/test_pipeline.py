import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small import samples, write_nifti

from tf_liver.data import DataError, DataWarning, pipeline
from tf_liver.data.augment import POLICIES, Augmenter, WarpAugmenter, widened
from tf_liver.data.build import prepare
from tf_liver.data.cases import find_cases
from tf_liver.data.index import epoch_length, epoch_samples, index_labels, liver_samples, steps_per_epoch
from tf_liver.data.loader import SliceLoader
from tf_liver.data.nifti import read_label, read_volume
from tf_liver.data.pipeline import (
    case_slices,
    stored_batches,
    stored_validation,
    streamed_batches,
    streamed_validation,
    training_loader,
)
from tf_liver.data.slices import normalise
from tf_liver.data.store import SliceStore
from tf_liver.experiment import replace


@pytest.fixture(params=["streamed", "stored"])
def training(request, index, store):
    """Training batches of an experiment by either way: (experiment, seed, workers) → dataset."""
    if request.param == "streamed":
        yield lambda *args: streamed_batches(index, *args)
        return
    with contextlib.ExitStack() as stack:

        def stored(experiment, seed, workers):
            load = stack.enter_context(training_loader(store, experiment, workers))
            return stored_batches(store, experiment, seed, workers, load=load)

        yield stored


def test_the_index_holds_the_positive_slices(index, store):
    for case, depth, chosen in zip(index.cases, index.depths, index.positives, strict=True):
        label = read_label(case.label).slices
        assert depth == len(label)
        assert set(chosen) == {k for k in range(len(label)) if label[k].any()}
        assert 0 < len(chosen) < len(label)
    assert store.index.depths == index.depths
    for one, other in zip(store.index.positives, index.positives, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_any_number_of_workers_gives_the_same_samples_in_the_same_order(training, tiny, workers):
    assert samples(training(tiny, 3, workers)) == samples(training(tiny, 3, 2))


def test_the_seed_and_the_epoch_change_order_and_augmentation(training, index, tiny):
    one, other = samples(training(tiny, 3, 2)), samples(training(tiny, 4, 2))
    length = epoch_length(index, 0.0)
    first, second = one[:length], one[length:]
    assert len(second) == len(set(first)) == length
    # A slice in eight is neither rotated nor flipped, and so the same in both epochs one time in 64.
    assert len(set(first) & set(second)) < length / 4
    assert len(set(first) & set(other[:length])) < length / 4


def test_cardinality_is_exact_and_each_epoch_holds_each_slice_once(training, index, store, tiny):
    plain = replace(tiny, augmentation="resize", epochs=2)
    dataset = training(plain, 0, 2)
    batches = list(dataset.as_numpy_iterator())
    steps = steps_per_epoch(index, 0.0, plain.batch_size)
    assert int(dataset.cardinality()) == len(batches) == 2 * steps
    for epoch in (batches[:steps], batches[steps:]):
        masks = Counter(m.tobytes() for _, masks in epoch for m in masks)
        assert masks == Counter(m for _, m in samples(stored_validation(store, plain)))


def test_streaming_equals_the_same_steps_by_hand(index, tiny):
    """Validation batches in tf.data against plain NumPy and albumentations, slice by slice."""
    resize = Augmenter("resize", tiny.image_size)
    batches = list(streamed_validation(index, tiny).as_numpy_iterator())
    images, masks = (np.concatenate(part)[..., 0] for part in zip(*batches, strict=True))
    number = 0
    for case, chosen in zip(index.cases, index.positives, strict=True):
        image, label = read_volume(case.image).slices, read_label(case.label).slices
        for k in chosen:
            expected, mask = resize(normalise(image[k], tiny), (label[k] > 0).astype(np.uint8), 0)
            np.testing.assert_allclose(images[number], expected, atol=1e-6)
            np.testing.assert_array_equal(masks[number], mask)
            number += 1
    assert number == len(images)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize(
    ("size", "policy", "neighbours"),
    [(0, "flip_rotate", 0), (32, "flip_rotate", 0), (32, "affine_intensity_elastic", 0), (32, "affine_intensity", 2)],
)
def test_store_and_stream_hold_the_same_samples_to_the_bit(index, store, tiny, ratio, size, policy, neighbours):
    changes = {"image_size": size, "augmentation": policy, "neighbours": neighbours}
    experiment = replace(tiny, batch_size=1, negative_ratio=ratio, **changes)
    streamed, stored = (
        samples(streamed_batches(index, experiment, 5, 2)),
        samples(stored_batches(store, experiment, 5, 2)),
    )
    assert len(stored) == 2 * epoch_length(index, ratio)
    assert Counter(streamed) == Counter(stored)


@pytest.mark.parametrize("policy", POLICIES)
def test_fast_samples_are_the_plain_ones_within_the_stated_tolerance(index, store, tiny, policy):
    """At the network's size: without rotation and scale to rounding, with them as stated, on average."""
    moves = {type(step).__name__ for step in POLICIES[policy].moves()}
    most, most_of_mask = (0.08, 0.04) if "Affine" in moves else (0.05, 0.02)
    experiment = replace(tiny, image_size=32, epochs=1, batch_size=1, augmentation=policy)
    wide, margin = widened(experiment, policy)
    plain, resized = Augmenter(policy, 32, margin), Augmenter("resize", 32)
    rows = epoch_samples(index, 0.0, 1, 0)
    unturned = 0
    for row, (images, masks) in zip(rows, stored_batches(store, experiment, 1, 2).as_numpy_iterator(), strict=True):
        image, label = store.read(*row[:2])
        seed = int(row[2])
        expected, mask = plain(normalise(image[0], wide), (label > 0).astype(np.uint8), seed)
        off = np.abs(images[0, ..., 0] - expected)
        assert off.mean() < most
        assert (masks[0, ..., 0] != mask).mean() < most_of_mask  # the liver's border, a large part of it at 32²
        turn, size = (augmenter.matrix(label.shape, seed)[:, :2] for augmenter in (plain, resized))
        if np.allclose(np.abs(turn), size):  # no more than flipped
            unturned += 1
            assert off.max() < 1e-5
    assert 0 < unturned <= len(rows)


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
def test_shards_hold_every_slice_once(store, index, tiny, shards):
    experiment = replace(tiny, augmentation="resize", epochs=1, batch_size=16)
    parts = [stored_batches(store, experiment, 0, 2, shard=(n, shards)) for n in range(shards)]
    assert {int(p.cardinality()) for p in parts} == {steps_per_epoch(index, 0.0, 16)}
    assert all(len(images) for p in parts for images, _ in p.as_numpy_iterator())
    together = [s for p in parts for s in samples(p)]
    assert Counter(together) == Counter(samples(stored_batches(store, experiment, 0, 2)))
    assert len(together) == epoch_length(index, 0.0)


def test_no_batch_is_a_small_leftover(store, index, tiny):
    experiment = replace(tiny, epochs=1)
    sizes = [len(images) for images, _ in stored_batches(store, experiment, 0, 2).as_numpy_iterator()]
    assert max(sizes) <= experiment.batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == epoch_length(index, 0.0)


@pytest.mark.slow
def test_store_and_stream_hold_the_same_samples_of_real_scans(real_data, tiny, tmp_path):
    cases = find_cases(real_data / "Task03_Liver")
    prepare(cases, tmp_path, workers=2)
    stored_index = SliceStore(tmp_path, cases)
    experiment = replace(tiny, image_size=128, epochs=1, augmentation="flip_rotate")
    streamed = samples(streamed_batches(index_labels(cases, 2), experiment, 3, 2))
    assert Counter(streamed) == Counter(samples(stored_batches(stored_index, experiment, 3, 2)))
    assert len(streamed) == 208


@pytest.mark.parametrize("policy", ["flip_rotate", "affine_intensity_elastic"])
def test_any_batch_can_be_the_first(store, tiny, policy):
    tiny = replace(tiny, augmentation=policy)
    whole = list(stored_batches(store, tiny, 0, 2).as_numpy_iterator())
    for start in (1, len(whole) // 2, len(whole) - 1):
        rest = list(stored_batches(store, tiny, 0, 2, start=start).as_numpy_iterator())
        assert len(rest) == len(whole) - start
        for one, other in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def test_negatives_are_mixed_in_at_the_ratio_and_drawn_anew(index):
    liver = {tuple(row[:2]) for row in liver_samples(index)}
    epochs = [epoch_samples(index, 0.5, 0, epoch) for epoch in range(3)]
    negatives = [{tuple(r[:2]) for r in rows} - liver for rows in epochs]
    for rows, drawn in zip(epochs, negatives, strict=True):
        assert len({tuple(r[:2]) for r in rows}) == len(rows) == epoch_length(index, 0.5)
        assert len(drawn) == round(0.5 * len(liver))
    assert negatives[0] != negatives[1]
    # More than there are: all of them.
    assert epoch_length(index, 100.0) == sum(index.depths) == len(epoch_samples(index, 100.0, 0, 0))


def test_slices_of_different_cases_are_mixed(training, index, tiny):
    """A batch must not come from one patient."""
    plain = replace(tiny, augmentation="resize", epochs=1)
    owner = {}
    for number in range(len(index.cases)):
        for _, z, _ in liver_samples(index)[liver_samples(index)[:, 0] == number]:
            label = read_label(index.cases[number].label).slices[z]
            _, mask = Augmenter("resize", 32)(np.zeros(label.shape, np.float32), (label > 0).astype(np.uint8), 0)
            owner[mask.tobytes()] = number
    batches = training(plain, 0, 2).as_numpy_iterator()
    owners = [{owner.get(m.tobytes()) for m in masks} - {None} for _, masks in batches]
    assert np.mean([len(o) for o in owners]) > 2


def test_streaming_decodes_each_volume_once_per_pass_and_never_as_float64(index, tiny, monkeypatch):
    seen = []

    def counting(path):
        volume = read_volume(path)
        assert volume.voxels.dtype == np.int16
        seen.append(path)
        return volume

    monkeypatch.setattr(pipeline, "read_volume", counting)
    assert len(samples(streamed_batches(index, replace(tiny, epochs=3), 0, 2))) == 3 * epoch_length(index, 0.0)
    assert Counter(seen) == {case.image: 3 for case in index.cases}


def test_native_size_batches_are_padded_to_a_multiple_of_32(training, tiny):
    for images, masks in training(replace(tiny, image_size=0), 0, 2).take(2).as_numpy_iterator():
        assert images.shape == masks.shape
        assert images.shape[1] % 32 == images.shape[2] % 32 == 0


def two_cases(folder, with_liver):
    for name, has_liver in zip("ab", with_liver, strict=True):
        label = np.zeros((40, 40, 4), np.uint8)
        label[10:20, 10:20, 1:3] = has_liver
        write_nifti(folder / "imagesTr" / f"{name}.nii.gz", np.full((40, 40, 4), 100, np.int16))
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label)
    return find_cases(folder)


def test_a_case_without_liver_adds_no_slices_and_says_so(tmp_path, tiny):
    cases = two_cases(tmp_path, (True, False))
    with pytest.warns(DataWarning, match="case b holds no liver"):
        index = index_labels(cases, 1)
    assert epoch_length(index, 0.0) == 2
    assert len(samples(streamed_batches(index, tiny, 0, 2))) == 2 * tiny.epochs


def test_no_liver_anywhere_is_refused(tmp_path):
    with pytest.warns(DataWarning), pytest.raises(DataError, match="a slice with liver is needed"):
        index_labels(two_cases(tmp_path, (False, False)), 1)


def test_a_file_that_breaks_in_mid_epoch_is_named(tmp_path, tiny):
    cases = two_cases(tmp_path, (True, True))
    index = index_labels(cases, 1)
    broken = Path(cases[1].image)
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(Exception, match=r"b\.nii\.gz: damaged gzip stream"):
        samples(streamed_batches(index, tiny, 0, 2))


def test_one_slice_volume(tmp_path, tiny):
    write_nifti(tmp_path / "imagesTr" / "a.nii", np.full((33, 47, 1), 80, np.int16))
    write_nifti(tmp_path / "labelsTr" / "a.nii", np.ones((33, 47, 1), np.uint8))
    index = index_labels(find_cases(tmp_path), 1)
    ((image, mask, _),) = case_slices(index, 0, liver_samples(index))
    assert image.shape == (1, 47, 33)
    assert mask.shape == (47, 33)
    ((image, _, _),) = case_slices(index, 0, liver_samples(index), neighbours=2)
    np.testing.assert_array_equal(image, np.full((5, 47, 33), 80))


@pytest.mark.parametrize("size", [0, 32])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_channels_are_the_neighbouring_slices_and_those_at_the_ends_repeat(index, store, tiny, neighbours, size):
    """Of every slice of a case, with its own maximum for each: from the store and from the scan, to the bit."""
    experiment = replace(tiny, neighbours=neighbours, normalisation="clip_max", image_size=size)
    augmenter, plain = WarpAugmenter(experiment, "resize"), Augmenter("resize", size)
    depth = index.depths[1]
    rows = np.array([(1, z, 0) for z in range(depth)])
    images, masks = SliceLoader(store, augmenter)(rows)
    streamed = [augmenter.batch([sample], 1)[0][0] for sample in case_slices(index, 1, rows, neighbours)]
    np.testing.assert_array_equal(images, streamed)
    assert images.shape[-1] == 2 * neighbours + 1
    assert masks.shape[-1] == 1
    slices = read_volume(index.cases[1].image).slices
    empty = np.zeros(slices.shape[1:], np.uint8)
    for z in range(depth):
        for channel in range(2 * neighbours + 1):
            other = min(max(z + channel - neighbours, 0), depth - 1)
            expected, _ = plain(normalise(slices[other], experiment), empty, 0)
            np.testing.assert_allclose(images[z, ..., channel], expected, atol=1e-6)
