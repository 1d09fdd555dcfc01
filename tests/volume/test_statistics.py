import json

import numpy as np
import pytest
from small import write_nifti

from tf_liver.data.nifti import read_volume
from tf_liver.volume.statistics import statistics

AFFINE = np.array([[0.5, 0, 0, -40], [0, 2, 0, 30], [0, 0, 3, 100], [0, 0, 0, 1.0]])


def a_volume(tmp_path, affine=AFFINE, shape=(8, 9, 10)):
    voxels = np.zeros(shape, np.int16)
    voxels[2:4], voxels[4:] = 100, 60
    return read_volume(write_nifti(tmp_path / "scan.nii", voxels, affine))


def test_by_hand(tmp_path):
    """Liver: 3 × 4 × 5 voxels of 3 mm³, of which two tumours of 2 and 1 voxels that touch by a corner only."""
    volume = a_volume(tmp_path)
    labels = np.zeros((10, 9, 8), np.uint8)
    labels[2:7, 3:7, 2:5] = 1
    labels[3, 3, 2:4], labels[4, 4, 4] = 2, 2
    found = statistics(volume, labels, tumours=True)
    assert found["liver_ml"] == pytest.approx(60 * 0.003)
    assert found["tumour_ml"] == pytest.approx(3 * 0.003)
    assert found["tumour_count"] == 2
    assert found["liver_mean_hu"] == pytest.approx((2 * 100 + 60) / 3)
    assert found["tumour_mean_hu"] == pytest.approx((2 * 100 + 60) / 3)
    assert found["extent_mm"] == {"left_right": 1.5, "posterior_anterior": 8.0, "inferior_superior": 15.0}
    assert found["warnings"] == []
    assert json.loads(json.dumps(found)) == {**found, "spacing_mm": [0.5, 2.0, 3.0]}


def test_a_model_of_the_liver_alone_says_nothing_of_tumours(tmp_path):
    labels = np.zeros((10, 9, 8), np.uint8)
    labels[2:7, 3:7, 2:5] = 1
    found = statistics(a_volume(tmp_path), labels, tumours=False)
    assert (found["tumour_ml"], found["tumour_count"], found["tumour_mean_hu"]) == (None, None, None)


@pytest.mark.parametrize(
    ("voxel", "ends"),
    [
        ((0, 4, 4), "inferior"),
        ((9, 4, 4), "superior"),
        ((4, 0, 4), "posterior"),
        ((4, 8, 4), "anterior"),
        ((4, 4, 0), "left"),
        ((4, 4, 7), "right"),
        ((0, 8, 7), "right, anterior, inferior"),
    ],
)
def test_a_liver_that_is_cut_off_is_named_by_its_end(tmp_path, voxel, ends):
    labels = np.zeros((10, 9, 8), np.uint8)
    labels[voxel] = 1
    (warning,) = statistics(a_volume(tmp_path), labels, tumours=False)["warnings"]
    assert warning == f"liver touches the scan's edge: {ends}"


def test_no_liver_and_no_spacing(tmp_path):
    found = statistics(a_volume(tmp_path, np.eye(4)), np.zeros((10, 9, 8), np.uint8), tumours=True)
    assert (found["liver_ml"], found["liver_mean_hu"], found["extent_mm"], found["tumour_count"]) == (0, None, None, 0)
    nothing, placeholder = found["warnings"]
    assert nothing == "no liver found"
    assert placeholder == "identity affine with 1 mm spacing; millilitres and millimetres mean nothing"
