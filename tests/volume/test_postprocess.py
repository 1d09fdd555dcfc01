import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tf_liver.volume.postprocess import bounding_box, postprocess

LABEL_MAPS = arrays(
    np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.sampled_from([0, 0, 0, 1, 2])
)


def flood(free, start):
    """Return what a walk from voxel to voxel, face to face, reaches: an oracle without SciPy."""
    reached, todo = set(), [start]
    while todo:
        here = todo.pop()
        if here in reached or not all(0 <= i < n for i, n in zip(here, free.shape, strict=True)) or not free[here]:
            continue
        reached.add(here)
        todo += [tuple(np.add(here, step)) for way in np.eye(3, dtype=int) for step in (way, -way)]
    return reached


def components(mask):
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        found.append(flood(mask, min(left)))
        left -= found[-1]
    return found


@given(LABEL_MAPS)
def test_the_largest_component_stays_as_it_was(label_map):
    kept = postprocess(label_map, "largest")
    sizes = [len(c) for c in components(label_map > 0)]
    there = components(kept > 0)
    assert [len(c) for c in there] == ([max(sizes)] if sizes else [])
    np.testing.assert_array_equal(kept[kept > 0], label_map[kept > 0])


@given(LABEL_MAPS)
def test_filling_adds_liver_where_no_way_leads_out(label_map):
    kept, filled = postprocess(label_map, "largest"), postprocess(label_map, "largest_filled")
    outside = np.pad(kept == 0, 1, constant_values=True)
    reached = flood(outside, (0, 0, 0))
    for voxel in map(tuple, np.argwhere(kept == 0)):
        assert filled[voxel] == (0 if tuple(np.add(voxel, 1)) in reached else 1)
    np.testing.assert_array_equal(filled[kept > 0], kept[kept > 0])


@given(LABEL_MAPS)
def test_none_changes_nothing_and_nothing_changes_its_input(label_map):
    before = label_map.copy()
    np.testing.assert_array_equal(postprocess(label_map, "none"), label_map)
    postprocess(label_map, "largest_filled")
    np.testing.assert_array_equal(label_map, before)


def test_tumours_stay_as_far_as_their_liver_does():
    """Two tumours of one voxel in the larger part stay; one that makes up most of the smaller part goes with it."""
    label_map = np.array([[[1, 2, 1, 2, 1, 0, 2, 2, 1]]], np.uint8)
    np.testing.assert_array_equal(postprocess(label_map, "largest"), [[[1, 2, 1, 2, 1, 0, 0, 0, 0]]])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"postprocessing: must be one of none, largest, .* Received: 'closing'"):
        postprocess(np.zeros((1, 1, 1), np.uint8), "closing")


def test_the_box_is_tight():
    mask = np.zeros((5, 6, 7), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))
