import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance

from tf_liver.model.metrics import Dice, MeanIoU, PixelAccuracy
from tf_liver.volume.scores import Counts, count, dice, iou, mean_iou, pixel_accuracy, score_case
from tf_liver.volume.tables import metrics_csv, summarise, table

MASKS = arrays(bool, (3, 4, 5))
NOTHING, ALL = np.zeros((2, 3), bool), np.ones((2, 3), bool)


def test_by_hand():
    counts = count(np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 1, 0, 0], bool))
    assert counts == Counts(1, 1, 1, 2)
    assert (dice(counts), iou(counts), pixel_accuracy(counts)) == (1 / 2, 1 / 3, 3 / 5)
    assert mean_iou(counts) == (1 / 3 + 2 / 4) / 2


@pytest.mark.parametrize(
    ("reference", "prediction", "expected", "note"),
    [
        (NOTHING, NOTHING, 1, "no liver in reference or prediction"),
        (NOTHING, ALL, 0, "no liver in reference"),
        (ALL, NOTHING, 0, "no liver in prediction"),
        (ALL, ALL, 1, ""),
    ],
)
def test_degenerate_cases_have_scores(reference, prediction, expected, note):
    row = score_case("c", count(reference, prediction), voxel_ml=0.5)
    assert (row.dice, row.iou, row.pixel_accuracy, row.mean_iou) == (expected,) * 4
    assert row.note == note
    assert row.reference_ml == 0.5 * reference.sum()
    assert row.prediction_ml == 0.5 * prediction.sum()


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


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape. Received: \(2, 3\) and \(3, 2\)"):
        count(NOTHING, NOTHING.T)


def test_a_missed_organ_stays_in_the_mean():
    found, missed = count(ALL, ALL), count(ALL, NOTHING)
    rows = [score_case("a", found, 1), score_case("b", missed, 1)]
    summary = summarise(rows, found + missed)
    assert summary["dice"] == {"mean": 0.5, "sd": pytest.approx(2**-0.5)}
    assert (summary["no_liver_in_prediction"], summary["no_liver_in_reference"], summary["cases"]) == (1, 0, 2)
    assert summary["pooled_dice"] == pytest.approx(2 / 3)
    lines = metrics_csv(rows).splitlines()
    assert lines[0].startswith("case_id,dice,iou,pixel_accuracy,mean_iou,reference_ml,prediction_ml,note")
    assert len(lines) == 3
    assert "no liver in prediction" in table(rows)
