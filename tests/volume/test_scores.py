import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance

from tf_liver.model.metrics import Dice, MeanIoU, PixelAccuracy
from tf_liver.volume.scores import (
    Counts,
    count,
    crop,
    dice,
    iou,
    mean_iou,
    pixel_accuracy,
    precision,
    recall,
    relative_volume_difference,
    score_region,
)

MASKS = arrays(bool, (3, 4, 5))
NOTHING, ALL = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
STEP_MM = np.diag([1.0, 2.0, 5.0])  # a voxel of 0.01 ml


def test_by_hand():
    counts = count(np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 1, 0, 0], bool))
    assert counts == Counts(1, 1, 2, 2)
    assert (dice(counts), iou(counts), pixel_accuracy(counts)) == (2 / 5, 1 / 4, 3 / 6)
    assert (precision(counts), recall(counts)) == (1 / 2, 1 / 3)
    assert relative_volume_difference(counts) == -1 / 3
    assert mean_iou(counts) == (1 / 4 + 2 / 5) / 2


def test_a_row_by_hand():
    reference, prediction = np.zeros((2, 8, 8, 8), bool)
    reference[2:5, 2:4, 2:6], prediction[2:5, 2:4, 2:5] = True, True  # 24 and 18 voxels: one layer is missing
    row, counts = score_region("c", "liver", reference, prediction, STEP_MM, 512)
    assert counts == Counts(18, 0, 6, 488)
    assert (row.dice, row.iou, row.voe) == pytest.approx((36 / 42, 3 / 4, 1 / 4))
    assert (row.precision, row.recall) == (1, 3 / 4)
    assert (row.reference_ml, row.prediction_ml, row.volume_difference_ml) == pytest.approx((0.24, 0.18, -0.06))
    assert (row.volume_difference_percent, row.rvd) == (-25, -1 / 4)
    assert row.msd_mm == 5  # the missing layer is a voxel of 5 mm thick
    assert (row.lesions_found, row.burden_reference) == (None, None)
    assert "lesions_found" not in row.scores
    assert "case_id" not in row.scores


@pytest.mark.parametrize(
    ("reference", "prediction", "overlap", "difference"),
    [(NOTHING, NOTHING, 1, 0), (NOTHING, ALL, 0, math.nan), (ALL, NOTHING, 0, -1), (ALL, ALL, 1, 0)],
)
def test_degenerate_cases_have_scores(reference, prediction, overlap, difference):
    row, _ = score_region("c", "liver", reference, prediction, STEP_MM, reference.size)
    assert (row.dice, row.iou, row.precision, row.recall) == (overlap,) * 4
    assert (row.nsd_1mm, row.nsd_2mm, row.nsd_7mm) == (overlap,) * 3
    assert (row.pixel_accuracy, row.mean_iou, row.voe) == (overlap, overlap, 1 - overlap)
    assert row.rvd == pytest.approx(difference, nan_ok=True)
    distances = (row.hd95_mm, row.assd_mm, row.rmsd_mm, row.msd_mm)
    if reference.any() and prediction.any():
        assert distances == (0,) * 4
    else:
        assert all(map(math.isnan, distances))
    assert row.reference_ml == pytest.approx(0.01 * reference.sum())
    assert row.prediction_ml == pytest.approx(0.01 * prediction.sum())


@given(MASKS, MASKS)
def test_equal_to_scipy(reference, prediction):
    counts = count(reference, prediction)
    if reference.any() or prediction.any():
        assert dice(counts) == pytest.approx(1 - distance.dice(reference.ravel(), prediction.ravel()))
        assert iou(counts) == pytest.approx(1 - distance.jaccard(reference.ravel(), prediction.ravel()))
    assert pixel_accuracy(counts) == pytest.approx(1 - distance.hamming(reference.ravel(), prediction.ravel()))


@settings(deadline=None, max_examples=25)
@given(MASKS, MASKS)
def test_equal_to_the_training_metrics(reference, prediction):
    counts = count(reference, prediction)
    for metric, ours in ((PixelAccuracy(), pixel_accuracy), (MeanIoU(), mean_iou), (Dice(), dice)):
        metric.update_state(reference, prediction.astype(np.float32))
        assert ours(counts) == pytest.approx(float(metric.result()), abs=1e-6)


@given(MASKS, MASKS, st.integers(1, 2))
def test_counts_add_up(reference, prediction, cut):
    parts = count(reference[:cut], prediction[:cut]) + count(reference[cut:], prediction[cut:])
    assert parts == count(reference, prediction)
    assert parts.total == reference.size
    assert dice(parts) == dice(count(prediction, reference))


@given(MASKS, MASKS)
def test_precision_is_the_recall_of_the_other_way_round(reference, prediction):
    assert precision(count(reference, prediction)) == recall(count(prediction, reference))


@settings(deadline=None)
@given(MASKS, MASKS, st.floats(0.25, 4))
def test_all_scores_keep_their_bounds_and_scale_with_the_spacing(reference, prediction, zoom):
    small, _ = score_region("c", "liver", reference, prediction, STEP_MM, reference.size)
    large, _ = score_region("c", "liver", reference, prediction, zoom * STEP_MM, reference.size)
    for name, value in small.scores.items():
        if name.endswith("_mm"):
            assert large.scores[name] == pytest.approx(zoom * value, nan_ok=True)
            assert not value < 0
        elif name.endswith("_ml"):
            assert large.scores[name] == pytest.approx(zoom**3 * value)
        elif not name.startswith("nsd"):
            assert large.scores[name] == pytest.approx(value, nan_ok=True)
    ratios = [v for n, v in small.scores.items() if not n.endswith(("_mm", "_ml", "_percent", "rvd"))]
    assert all(0 <= ratio <= 1 for ratio in ratios)
    assert small.nsd_1mm <= small.nsd_2mm <= small.nsd_7mm
    assert small.dice >= small.iou
    assert not small.assd_mm > small.rmsd_mm + 1e-9
    assert not small.rmsd_mm > small.msd_mm + 1e-9


@settings(deadline=None)
@given(MASKS, MASKS, st.tuples(*[st.integers(0, 3)] * 3))
def test_a_place_in_the_scan_and_empty_space_change_no_score_of_the_mask(reference, prediction, offset):
    place = tuple(slice(o, o + n) for o, n in zip(offset, reference.shape, strict=True))
    moved = np.zeros((2, 9, 10, 11), bool)
    moved[0][place], moved[1][place] = reference, prediction
    here, _ = score_region("c", "liver", reference, prediction, STEP_MM, reference.size)
    there, _ = score_region("c", "liver", *moved, STEP_MM, moved[0].size)
    changed = {"pixel_accuracy", "mean_iou"}  # these look at what is outside, too
    for name, value in dataclasses.asdict(here).items():
        if name not in changed:
            assert getattr(there, name) == pytest.approx(value, nan_ok=True), name


@given(MASKS, MASKS)
def test_the_box_is_as_small_as_it_can_be(reference, prediction):
    cut, other = crop(reference, prediction)
    assert (cut.sum(), other.sum()) == (reference.sum(), prediction.sum())
    either = cut | other
    if either.any():
        for axis in range(3):
            ends = either.take([0, -1], axis)
            assert ends.any(axis=tuple(a for a in range(3) if a != axis)).all()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape. Received: \(2, 3, 4\) and \(4, 3, 2\)"):
        count(NOTHING, NOTHING.T)
