import json

import numpy as np
import pytest
from small import write_nifti

from tf_liver.data import DataError
from tf_liver.data.nifti import read_volume
from tf_liver.data.plausibility import require_image
from tf_liver.volume.statistics import statistics

AFFINE = np.array([[0.5, 0, 0, -40], [0, 2, 0, 30], [0, 0, 3, 100], [0, 0, 0, 1.0]])


def a_volume(tmp_path, affine=AFFINE, shape=(8, 9, 10)):
    voxels = np.zeros(shape, np.int16)
    voxels[0], voxels[1], voxels[2:4], voxels[4:] = -1000, 400, 100, 60
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
    assert found["warnings"] == [
        "a liver has 300 to 5,000 ml. Received: 0 ml",
        "the liver lies on the left: the header's orientation may be wrong",
    ]
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
    warning = statistics(a_volume(tmp_path), labels, tumours=False)["warnings"][0]
    assert warning == f"liver touches the scan's edge: {ends}"


def test_no_liver_and_no_spacing(tmp_path):
    found = statistics(a_volume(tmp_path, np.eye(4)), np.zeros((10, 9, 8), np.uint8), tumours=True)
    assert (found["liver_ml"], found["liver_mean_hu"], found["extent_mm"], found["tumour_count"]) == (0, None, None, 0)
    nothing, placeholder, *_ = found["warnings"]
    assert nothing == "no liver found"
    assert placeholder == "identity affine with 1 mm spacing; millilitres and millimetres mean nothing"


def a_body(folder, turn=1, shape=(64, 48, 20), spacing=4.0):
    """Air, a body of soft tissue with a spine, and a brighter block on the patient's right; or turned about."""
    rng = np.random.default_rng(0)
    voxels = np.full(shape, -1000.0)
    voxels[4:60, 4:44] = 40
    voxels[28:36, 6:14] = 700
    labels = np.zeros(shape, np.uint8)
    labels[36:58, 14:40, 3:17] = 1
    voxels[labels > 0] = 110
    voxels = np.maximum(voxels + rng.normal(0, 10, shape), -1000)
    path = write_nifti(folder / "body.nii", voxels.astype(np.int16)[::turn], np.diag([spacing, spacing, spacing, 1]))
    return read_volume(path), labels[::turn].transpose(2, 1, 0)


def test_a_liver_where_it_belongs_is_not_doubted(tmp_path):
    volume, labels = a_body(tmp_path)
    assert statistics(volume, labels, tumours=False)["warnings"] == []


def test_row_80_a_mirrored_scan_is_doubted(tmp_path):
    volume, labels = a_body(tmp_path, turn=-1)
    said = statistics(volume, labels, tumours=False)["warnings"]
    assert said == ["the liver lies on the left: the header's orientation may be wrong"]


def test_a_liver_of_no_size_or_in_pieces_is_doubted(tmp_path):
    volume, labels = a_body(tmp_path, spacing=9.0)
    litres = np.count_nonzero(labels) * 9**3 / 1e6
    assert (
        f"a liver has 300 to 5,000 ml. Received: {1000 * litres:,.0f} ml"
        in statistics(volume, labels, False)["warnings"]
    )
    scattered = np.zeros_like(labels)
    scattered[4:16:2, 10:40:4, 36:60:4] = 1
    assert "a liver is one piece. Received: 288" in statistics(volume, scattered, False)["warnings"]


@pytest.mark.parametrize("offset", [1024, -1024])
def test_row_81_shifted_hu_are_named_with_what_takes_it_off(tmp_path, offset):
    volume, labels = a_body(tmp_path)
    moved = read_volume(write_nifti(tmp_path / "m.nii", volume.voxels + np.int16(offset), np.diag([4, 4, 4, 1])))
    said = " ".join(statistics(moved, labels, tumours=False)["warnings"])
    assert f"HU look shifted by {offset:+d}" in said
    assert f"--hu-offset {-offset}" in said


@pytest.mark.parametrize("padding", [-1024, -2048])
def test_row_81_padding_below_air_hides_no_offset(tmp_path, padding):
    volume, labels = a_body(tmp_path)
    voxels = volume.voxels + np.int16(1024)
    voxels[:, :3] = padding
    moved = read_volume(write_nifti(tmp_path / "m.nii", voxels, np.diag([4, 4, 4, 1])))
    assert "HU look shifted by +1024" in " ".join(statistics(moved, labels, tumours=False)["warnings"])


def test_row_82_a_label_map_is_no_image_and_a_ct_is(tmp_path):
    volume, labels = a_body(tmp_path)
    require_image(volume.voxels, "body.nii")
    require_image(np.clip(volume.voxels, 0, 255), "clipped to 8 bits")
    require_image(np.zeros((4, 5, 6), np.int16), "nothing")
    for values in (labels, labels * 2, labels.astype(np.float32) * 7, labels + 1):
        with pytest.raises(
            DataError, match=r"labels\.nii: must be a CT, not a label map. Received: whole numbers from"
        ):
            require_image(values, "labels.nii")
