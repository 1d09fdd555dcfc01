import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from tf_liver.volume.lesions import match_lesions, tumour_burden
from tf_liver.volume.scores import count, iou

STEP_MM = np.diag([1.0, 2.0, 5.0])
MASKS = arrays(bool, (3, 5, 6), elements=st.booleans())


def row(*spans):
    """A mask of one row of 30 voxels; lesions as (first, one after the last)."""
    mask = np.zeros((1, 1, 30), bool)
    for first, end in spans:
        mask[..., first:end] = True
    return mask


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ([(0, 4)], [(0, 4)], (1, 0, 0)),
        ([(0, 4)], [(0, 3)], (1, 0, 0)),  # IoU 3/4
        ([(0, 4)], [(0, 2)], (0, 1, 1)),  # IoU 1/2 is not above 1/2: missed, and what lies on it found nothing
        ([(0, 4)], [(10, 14)], (0, 1, 1)),
        ([(0, 4), (10, 14)], [(0, 4)], (1, 1, 0)),
        ([(0, 4)], [(0, 4), (10, 14)], (1, 0, 1)),
        ([(0, 4), (5, 9)], [(0, 9)], (1, 0, 0)),  # two of the reference under one that joins them: one, IoU 8/9
        ([(0, 9)], [(0, 4), (5, 9)], (1, 0, 0)),  # two predictions on one: one, IoU 8/9
        ([(0, 2), (8, 10)], [(0, 10)], (0, 1, 1)),  # joined, and too large: IoU 4/10
        ([(0, 10), (11, 14)], [(0, 9), (11, 14)], (2, 0, 0)),
        ([], [], (0, 0, 0)),
        ([(0, 4)], [], (0, 1, 0)),
        ([], [(0, 4), (5, 6)], (0, 0, 2)),
    ],
)
def test_by_hand(reference, prediction, expected):
    lesions = match_lesions(row(*reference), row(*prediction), STEP_MM)
    assert (lesions.found, lesions.missed, lesions.invented) == expected
    assert len(lesions.of_found) == lesions.found


def test_a_found_lesion_is_scored_alone():
    lesions = match_lesions(row((0, 4), (10, 14)), row((0, 3), (20, 30)), STEP_MM)
    (scores,) = lesions.of_found
    assert scores["dice"] == pytest.approx(6 / 7)
    assert (scores["voe"], scores["rvd"]) == (1 / 4, -1 / 4)
    assert scores["msd_mm"] == 5  # one voxel of 5 mm is missing; the others are 30 mm away
    assert scores["assd_mm"] == pytest.approx(5 / 7)
    assert scores["rmsd_mm"] == pytest.approx((25 / 7) ** 0.5)


def test_a_found_lesion_is_scored_whole_where_the_prediction_is_larger():
    (scores,) = match_lesions(row((2, 6)), row((1, 8)), STEP_MM).of_found
    assert (scores["rvd"], scores["msd_mm"]) == (3 / 4, 10)


def test_neighbours_by_an_edge_are_two_lesions():
    mask = np.zeros((2, 2, 1), bool)
    mask[0, 0] = mask[1, 1] = True
    assert match_lesions(mask, mask, STEP_MM).found == 2


@settings(deadline=None, max_examples=50)
@given(MASKS, MASKS)
def test_equal_to_naive_matching_where_nothing_is_joined(reference, prediction):
    (true, true_count), (claimed, claimed_count) = ndimage.label(reference), ndimage.label(prediction)
    pairs = [(g, p) for g in range(1, true_count + 1) for p in range(1, claimed_count + 1)]
    touching = [(g, p) for g, p in pairs if ((true == g) & (claimed == p)).any()]
    lesions = match_lesions(reference, prediction, STEP_MM)
    assert lesions.found + lesions.missed <= true_count
    assert lesions.found + lesions.invented <= claimed_count
    if len({g for g, _ in touching}) == len({p for _, p in touching}) == len(touching):
        found = sum(iou(count(true == g, claimed == p)) > 0.5 for g, p in touching)
        expected = (found, true_count - found, claimed_count - found)
        assert (lesions.found, lesions.missed, lesions.invented) == expected


@settings(deadline=None, max_examples=25)
@given(MASKS)
def test_a_prediction_like_the_reference_finds_all(reference):
    lesions = match_lesions(reference, reference, STEP_MM)
    assert (lesions.found, lesions.missed, lesions.invented) == (ndimage.label(reference)[1], 0, 0)


def test_burden_is_the_tumours_share_of_the_liver():
    assert tumour_burden(np.array([0, 1, 1, 2], np.uint8)) == 1 / 3
    assert tumour_burden(np.array([0, 1], np.uint8)) == 0
    assert math.isnan(tumour_burden(np.zeros(3, np.uint8)))
