"""Labels of tumours on their way to batches, and slices with tumour drawn more often."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import samples

from tf_liver.data.augment import Augmenter, WarpAugmenter
from tf_liver.data.index import SliceIndex, epoch_length, epoch_samples, steps_per_epoch
from tf_liver.data.loader import LoaderProcesses, SliceLoader
from tf_liver.data.nifti import read_label
from tf_liver.data.pipeline import stored_batches, stored_validation, streamed_batches
from tf_liver.data.slices import has_tumour, target
from tf_liver.experiment import replace


@pytest.fixture(scope="module")
def seeking(tiny):
    """An experiment that learns tumours, and draws their slices 2.5 times."""
    return replace(tiny, task="tumour", tumour_ratio=1.5, epochs=2)


def test_both_indices_know_the_slices_with_tumour(index, store):
    for case, tumours, stored in zip(index.cases, index.tumours, store.index.tumours, strict=True):
        label = read_label(case.label).slices
        assert set(tumours) == {z for z in range(len(label)) if (label[z] == 2).any()}
        np.testing.assert_array_equal(stored, tumours)
    assert sum(map(len, index.tumours)) > 0


@settings(max_examples=60, deadline=None)
@given(
    tumours=st.lists(st.sets(st.integers(2, 6)), min_size=1, max_size=3),
    ratio=st.floats(0, 5),
    negatives=st.floats(0, 3),
    epoch=st.integers(0, 3),
)
def test_each_tumour_slice_is_drawn_as_often_as_asked(tumours, ratio, negatives, epoch):
    positives = tuple(np.arange(1, 7) for _ in tumours)
    chosen = tuple(np.array(sorted(one), np.int64) for one in tumours)
    index = SliceIndex((None,) * len(tumours), (9,) * len(tumours), positives, chosen)
    rows = epoch_samples(index, negatives, 5, epoch, ratio)
    np.testing.assert_array_equal(rows, epoch_samples(index, negatives, 5, epoch, ratio))
    assert len(rows) == epoch_length(index, negatives, ratio)
    drawn = Counter((int(case), int(z)) for case, z, _ in rows)
    there = {(case, int(z)) for case, one in enumerate(chosen) for z in one}
    plain = Counter(tuple(map(int, row[:2])) for row in epoch_samples(index, negatives, 5, epoch))
    extra = [drawn[place] - 1 for place in there]
    assert sum(extra) == round(ratio * len(there))
    assert not extra or max(extra) - min(extra) <= 1
    assert {place: n for place, n in drawn.items() if place not in there} == {
        place: n for place, n in plain.items() if place not in there
    }


def test_copies_of_a_slice_are_augmented_each_for_itself(index):
    rows = epoch_samples(index, 0.0, 0, 0, 20.0)
    case = next(n for n, tumours in enumerate(index.tumours) if len(tumours))
    copies = rows[(rows[:, 0] == case) & (rows[:, 1] == index.tumours[case][0])]
    assert len(copies) == len(set(copies[:, 2])) == 21


@pytest.mark.parametrize("size", [pytest.param(0, marks=pytest.mark.slow), 32])
def test_store_and_stream_hold_the_same_labels_to_the_bit(index, store, seeking, size):
    experiment = replace(seeking, image_size=size, batch_size=1, negative_ratio=0.3)
    streamed = samples(streamed_batches(index, experiment, 5, 2))
    stored = stored_batches(store, experiment, 5, 2)
    assert int(stored.cardinality()) == len(streamed) == 2 * epoch_length(index, 0.3, 1.5)
    assert Counter(streamed) == Counter(samples(stored))
    assert set(np.frombuffer(b"".join(masks for _, masks in streamed), np.uint8)) == {0, 1, 2}


def test_labels_in_a_batch_are_those_of_the_scan(store, seeking):
    resize = Augmenter("resize", 32)
    masks = np.concatenate([masks for _, masks in stored_validation(store, seeking).as_numpy_iterator()])[..., 0]
    places = [(case, z) for case, chosen in enumerate(store.index.positives) for z in chosen]
    for (case, z), mask in zip(places, masks, strict=True):
        _, expected = resize(np.zeros(store.read(case, z)[1].shape, np.float32), store.read(case, z)[1].copy(), 0)
        np.testing.assert_array_equal(mask, expected)
    assert any(map(has_tumour, masks))


def test_shards_resuming_and_processes_with_oversampling(store, seeking):
    """Shards hold every sample once, a training goes on anywhere, and other processes give the same labels."""
    whole = list(stored_batches(store, seeking, 0, 2).as_numpy_iterator())
    assert len(whole) == 2 * steps_per_epoch(store.index, 0.0, seeking.batch_size, 1.5)
    parts = [stored_batches(store, seeking, 0, 2, shard=(n, 3)) for n in range(3)]
    everything = Counter(s for part in parts for s in samples(part))
    assert everything == Counter(samples(stored_batches(store, seeking, 0, 2)))
    late = list(stored_batches(store, seeking, 0, 2, start=len(whole) - 2).as_numpy_iterator())
    for one, other in zip(late, whole[-2:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    loader = SliceLoader(store, WarpAugmenter(seeking))
    rows = np.array([(case, z, 7) for case, chosen in enumerate(store.index.tumours) for z in chosen])[:8]
    processes = LoaderProcesses(loader, 1, 8, 32)
    images, masks = processes(rows)
    expected = loader(rows)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(masks, expected[1])
    assert masks.max() == 2
    processes.close()


def test_a_target_is_a_copy_and_a_liver_is_one_mask(tiny, seeking):
    label = np.array([[0, 1, 2]], np.uint8)
    for experiment, expected in ((tiny, [[0, 1, 1]]), (seeking, [[0, 1, 2]])):
        found = target(label, experiment)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8
        assert not np.shares_memory(found, label)
