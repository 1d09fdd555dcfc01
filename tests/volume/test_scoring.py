"""Label-map files of all kinds against references."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from small import write_nifti

from tf_liver.data import DataWarning
from tf_liver.data.cases import Case
from tf_liver.volume.scoring import picture, score_case, score_label_maps

AFFINE = np.diag([-0.8, 0.8, 2.5, 1.0])
AFFINE[:3, 3] = 100, -90, 40
SHAPE = (12, 10, 8)


def label_map(tumour=True):
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:9, 2:8, 1:6] = 1
    if tumour:
        voxels[4:6, 4:6, 2:4] = 2
    return voxels


@pytest.fixture
def case(tmp_path):
    label = write_nifti(tmp_path / "labels" / "a.nii.gz", label_map(), AFFINE)
    image = write_nifti(tmp_path / "images" / "a.nii.gz", label_map().astype(np.int16) * 80, AFFINE)
    return Case("a", image, label, "a")


def scored(case, folder, liver="whole", keep=None):
    return score_case(case, folder, liver, keep)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_files_as_nnu_net_writes_them(case, tmp_path, name):
    write_nifti(tmp_path / "p" / name, label_map(), AFFINE)
    result = scored(case, tmp_path / "p")
    assert result.error == ""
    assert (result.rows["liver"].dice, result.rows["tumour"].dice) == (1, 1)
    assert result.rows["tumour"].burden_reference == result.rows["tumour"].burden_prediction == 8 / 210
    assert (result.lesions.found, result.rows["tumour"].lesions_found) == (1, 1)
    assert result.rows["liver"].reference_ml == pytest.approx(210 * 0.8 * 0.8 * 2.5 / 1000)


@pytest.mark.parametrize(("tumour", "found"), [(True, 1), (False, 0)])
def test_folders_as_totalsegmentator_writes_them(case, tmp_path, tumour, found):
    write_nifti(tmp_path / "p" / "a" / "liver.nii.gz", (label_map() > 0).astype(np.uint8), AFFINE)
    if tumour:
        write_nifti(tmp_path / "p" / "a" / "liver_tumor.nii.gz", (label_map() == 2).astype(np.uint8), AFFINE)
    result = scored(case, tmp_path / "p")
    assert result.rows["liver"].dice == 1
    assert result.lesions.found == found
    assert result.claims_tumour == tumour


def test_another_storage_order_is_the_same_grid(case, tmp_path):
    image = nib.Nifti1Image(label_map(), AFFINE)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("SAL"))
    (tmp_path / "p").mkdir()
    nib.save(turned, tmp_path / "p" / "a.nii.gz")
    result = scored(case, tmp_path / "p", keep=tmp_path / "kept")
    assert result.rows["liver"].dice == 1
    kept = nib.load(tmp_path / "kept" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(kept.dataobj), label_map())
    np.testing.assert_array_equal(kept.affine, nib.load(case.label).affine)
    assert kept.get_data_dtype() == np.uint8


def moved(mm):
    affine = AFFINE.copy()
    affine[1, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: write_nifti(p / "a.nii", label_map()[:-1], AFFINE), "one shape. Received: prediction (11, 10, 8)"),
        (lambda p: write_nifti(p / "a.nii", label_map(), moved(0.5)), "prediction and reference must have one affine"),
        (lambda p: write_nifti(p / "a.nii", label_map(), AFFINE @ np.diag([1, 1, 2, 1])), "must have one affine"),
        (lambda p: write_nifti(p / "a.nii", label_map() + np.uint8(4), AFFINE), "label values must be 0, 1, 2"),
        (lambda p: write_nifti(p / "a.nii", np.full(SHAPE, np.nan, np.float32), AFFINE), "voxels must be finite"),
        (lambda p: (p / "a.nii").touch(), "the file is empty"),
        (lambda p: (p / "a.nii.gz").write_bytes(gzip.compress(b"no scan")), "not a NIfTI file"),
        (lambda p: None, "Received: none"),
        (
            lambda p: [write_nifti(p / n, label_map(), AFFINE) for n in ("a.nii", "a/liver.nii.gz")],
            "Received: a.nii, a/liver.nii.gz",
        ),
    ],
)
def test_what_cannot_be_scored_is_named_and_never_resampled(case, tmp_path, write, message):
    folder = tmp_path / "p"
    folder.mkdir()
    write(folder)
    result = scored(case, folder, keep=tmp_path / "kept")
    assert message in result.error
    assert str(folder) in result.error
    assert "a" in result.error
    assert "\n" not in result.error
    assert not result.rows
    assert not (tmp_path / "kept").exists()


def test_a_grid_within_rounding_is_one_with_a_warning(case, tmp_path):
    write_nifti(tmp_path / "p" / "a.nii", label_map(), moved(0.01))
    with pytest.warns(DataWarning, match="corners of prediction and reference are 0.01 mm apart"):
        assert scored(case, tmp_path / "p").rows["liver"].dice == 1


def test_both_liver_conventions(case, tmp_path):
    """A model without tumours: right by the one convention, and 8 voxels too large by the other."""
    write_nifti(tmp_path / "p" / "a.nii", label_map(tumour=False), AFFINE)
    assert scored(case, tmp_path / "p", "whole").rows["liver"].dice == 1
    parenchyma = scored(case, tmp_path / "p", "parenchyma").rows["liver"]
    assert parenchyma.dice == pytest.approx(2 * 202 / (202 + 210))
    assert parenchyma.volume_difference_percent == pytest.approx(100 * 8 / 202)


def cases_of(tmp_path, case, predictions):
    """Cases like `case`, each with its own prediction."""
    for case_id, voxels in predictions.items():
        if voxels is not None:
            write_nifti(tmp_path / "p" / f"{case_id}.nii.gz", voxels, AFFINE)
    return [Case(case_id, case.image, case.label, case_id) for case_id in predictions]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_case_stops_no_other_one(case, tmp_path, workers):
    cases = cases_of(tmp_path, case, {"a": label_map(), "b": None, "c": label_map(tumour=False)})
    results = score_label_maps(cases, tmp_path / "p", "whole", workers)
    assert [result.case.case_id for result in results] == ["a", "b", "c"]
    assert [bool(result.error) for result in results] == [False, True, False]
    assert [row.dice for result in results for row in result.rows.values()] == [1, 1, 1, 0]


def test_tumour_is_a_region_only_if_somebody_claims_one(case, tmp_path):
    """A missed tumour counts among cases of a tool that knows tumours; a liver model is not blamed for them."""
    cases = cases_of(tmp_path, case, {"a": label_map(tumour=False), "b": label_map(tumour=False)})
    for result in score_label_maps(cases, tmp_path / "p", "whole", 1):
        assert (list(result.rows), list(result.counts), result.lesions) == (["liver"], ["liver"], None)
    cases = cases_of(tmp_path, case, {"a": label_map(tumour=False), "b": label_map()})
    missed, _ = score_label_maps(cases, tmp_path / "p", "whole", 1)
    assert (missed.rows["tumour"].dice, missed.lesions.missed) == (0, 1)


def test_a_picture_of_the_largest_slice(case, tmp_path):
    write_nifti(tmp_path / "p" / "a.nii", label_map(), AFFINE)
    shown = picture(case, tmp_path / "p")
    assert shown.dtype == np.uint8
    assert (shown == 255).all(axis=-1).any()  # white, where both contours agree
