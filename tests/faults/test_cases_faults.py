"""Rows 35 to 44: files that are well by themselves and wrong together, and scans of odd content."""

import json
import shutil

import numpy as np
import pytest
from damage import AFFINE, SHAPE, ct_voxels, label_voxels, run_verify, write_folder
from small import write_nifti

from tf_liver.data import DataError
from tf_liver.data.cases import Split, choose_split, find_cases
from tf_liver.data.nifti import read_label
from tf_liver.data.slices import normalise, positive_slices
from tf_liver.experiment import replace


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def moved(mm):
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


def label_with(value, dtype):
    voxels = label_voxels().astype(dtype)
    voxels[0, 0, 0] = value
    return voxels


@pytest.mark.parametrize(
    ("row", "voxels", "affine", "message"),
    [
        ("35", np.ones((24, 20, 5), np.uint8), AFFINE, "one shape. Received: label (24, 20, 5), image (24, 20, 6)"),
        ("36", label_voxels(), moved(0.5), "one affine (corners within 0.1 mm). Received: corners 0.5 mm apart"),
        ("37", label_with(255, np.uint8), AFFINE, "label values must be 0, 1, 2. Received: 255"),
        ("37", label_with(1.5, np.float32), AFFINE, "label values must be 0, 1, 2. Received: 1.5"),
        ("37", label_with(-1, np.int16), AFFINE, "label values must be 0, 1, 2. Received: -1"),
    ],
)
def test_rows_35_to_37_wrong_labels_are_refused(folder, capsys, row, voxels, affine, message):
    write_nifti(folder / "labelsTr" / "bad.nii.gz", voxels, affine)
    code, text, record = run_verify(folder, capsys)
    assert code == 2
    assert [e["case_id"] for e in record["errors"]] == ["bad"]
    assert f"error: labelsTr/bad.nii.gz: {'label and image must have ' if row < '37' else ''}{message}" in text


def test_row_36_affines_within_the_tolerance_are_a_warning(folder, capsys):
    write_nifti(folder / "labelsTr" / "bad.nii.gz", label_voxels(), moved(0.05))
    code, text, _ = run_verify(folder, capsys)
    assert code == 0
    assert "warning: labelsTr/bad.nii.gz: the corners of label and image are 0.05 mm apart; taken as one grid" in text
    assert run_verify(folder, capsys, "--quick", "--strict")[0] == 1


def test_row_38_a_case_without_liver_is_a_warning_and_adds_no_slices(folder, capsys):
    empty = write_nifti(folder / "labelsTr" / "bad.nii.gz", np.zeros(SHAPE, np.uint8), AFFINE)
    code, text, record = run_verify(folder, capsys)
    assert code == 0
    assert "warning: labelsTr/bad.nii.gz: case bad holds no liver; it adds no liver slices" in text
    assert {c["case_id"]: c["positive_slices"] for c in record["cases"]} == {"good": 6, "bad": 0}
    assert len(positive_slices(read_label(empty).slices)) == 0


def test_row_39_one_slice_is_a_scan(folder, capsys):
    write_nifti(folder / "imagesTr" / "bad.nii.gz", ct_voxels()[..., :1], AFFINE)
    write_nifti(folder / "labelsTr" / "bad.nii.gz", label_voxels()[..., :1], AFFINE)
    code, _, record = run_verify(folder, capsys, "--strict")
    assert code == 0
    case = next(c for c in record["cases"] if c["case_id"] == "bad")
    assert (case["shape"], case["positive_slices"]) == ([24, 20, 1], 1)
    assert case["liver_ml"] == pytest.approx(16 * 0.8 * 0.9 * 2.5 / 1000)


def test_row_40_every_incomplete_case_is_named_and_the_others_are_read(folder, capsys):
    (folder / "imagesTr" / "bad.nii.gz").unlink()
    write_nifti(folder / "imagesTr" / "other.nii.gz", ct_voxels(), AFFINE)
    shutil.copy(folder / "imagesTr" / "good.nii.gz", folder / "imagesTr" / "good.nii")
    code, text, record = run_verify(folder, capsys)
    assert code == 2
    assert [line for line in text.splitlines() if line.startswith("error")] == [
        "error: imagesTr/good.nii.gz: case good must have one file. Received also: good.nii",
        "error: imagesTr: case bad has no image",
        "error: labelsTr: case other has no label",
    ]
    assert [c["case_id"] for c in record["cases"]] == ["good"]
    with pytest.raises(DataError, match="must have one file"):
        find_cases(folder)


def test_row_40_what_dataset_json_promises_is_missed(folder, capsys):
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("good", "gone")]
    (folder / "dataset.json").write_text(json.dumps({"training": entries}))
    code, text, _ = run_verify(folder, capsys)
    assert code == 2
    assert "error: imagesTr: case gone has no image, yet dataset.json lists it" in text
    assert "error: labelsTr: case gone has no label, yet dataset.json lists it" in text
    assert "warning: dataset.json: does not list bad; left out" in text
    (folder / "dataset.json").write_text("{")
    assert "error: dataset.json: not the dataset.json of a Decathlon task" in run_verify(folder, capsys)[1]


def test_row_41_apple_doubles_are_ignored(folder, capsys):
    """The file that macOS leaves beside each one on foreign disks: AppleDouble, magic 00 05 16 07."""
    for scan in list(folder.rglob("*.nii.gz")):
        scan.with_name(f"._{scan.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4000))
    code, _, record = run_verify(folder, capsys, "--strict")
    assert code == 0
    assert len(record["cases"]) == 2


def test_row_42_a_patient_stays_on_one_side(folder, capsys):
    for copy in ("good_2", "bad_2"):
        for kind in ("imagesTr", "labelsTr"):
            shutil.copy(folder / kind / f"{copy[:-2]}.nii.gz", folder / kind / f"{copy}.nii.gz")
    code, text, _ = run_verify(folder, capsys)
    assert code == 2
    assert "error: one scan under several patients: equal voxels. Received: bad, bad_2\n" in text
    assert "error: one scan under several patients: equal voxels. Received: good, good_2\n" in text

    names = ("good", "good_2", "bad", "bad_2")
    entries = [{"image": f"{n}.nii.gz", "label": f"{n}.nii.gz", "patient": n.removesuffix("_2")} for n in names]
    (folder / "dataset.json").write_text(json.dumps({"training": entries}))
    code, text, _ = run_verify(folder, capsys)
    assert code == 0
    assert "warning: one scan several times: equal voxels. Received: bad, bad_2\n" in text
    cases = find_cases(folder)
    for fold in (0, 1):
        split = choose_split(cases, 2, fold)
        assert {c.patient for c in split.train} ^ {c.patient for c in split.held_out} == {"good", "bad"}
    with pytest.raises(DataError, match=r"a patient must be on one side only\. Received on both: good"):
        Split(tuple(cases), (find_cases(folder)[-1],))


@pytest.mark.parametrize("normalisation", ["clip_max", "window"])
@pytest.mark.parametrize("value", [-1024, -1, 0, 1, 3071])
def test_row_43_constant_images_stay_finite(folder, tiny, capsys, normalisation, value):
    scan = write_nifti(folder / "imagesTr" / "bad.nii.gz", np.full(SHAPE, value, np.int16), AFFINE)
    assert scan.exists()
    slices = normalise(np.full((2, 5, 6), value, np.int16), replace(tiny, normalisation=normalisation))
    assert np.isfinite(slices).all()
    assert slices.min() >= 0
    assert slices.max() <= 1
    code, text, _ = run_verify(folder, capsys)
    assert code == 0
    assert "warning: imagesTr/bad.nii.gz: HU looks clipped or scaled" in text


def test_row_42_one_scan_under_two_patients_does_not_train(folder, tmp_path, tiny):
    """The scans are copies to the byte: the prepared store knows their hashes."""
    from tf_liver.data.source import open_source

    for kind in ("imagesTr", "labelsTr"):
        shutil.copy(folder / kind / "good.nii.gz", folder / kind / "twin.nii.gz")
        (folder / kind / "bad.nii.gz").unlink()
    split = choose_split(find_cases(folder), 2, 0)
    with (
        pytest.raises(
            DataError, match=r"must not both train and be held out\. Received: (good and twin|twin and good)"
        ),
        open_source(folder, tmp_path / "prepared", split, tiny, 0, 1),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("size", [250, 768])
def test_row_44_any_slice_size_is_trained_on_at_its_own_size(tmp_path, size):
    from tf_liver import train

    for name in ("a", "b"):
        image = (
            np.random.default_rng(0 if name == "a" else 1).integers(-1000, 1000, (size, size - 9, 2)).astype(np.int16)
        )
        label = np.zeros(image.shape, np.uint8)
        label[50:150, 60:160] = 1
        write_nifti(tmp_path / "data" / "imagesTr" / f"{name}.nii.gz", image)
        write_nifti(tmp_path / "data" / "labelsTr" / f"{name}.nii.gz", label)
    argv = ["--experiment", "demo", "--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--folds", "2"]
    argv += ["--prepared", str(tmp_path / "prepared"), "--backbone", "resnet18", "--precision", "float32"]
    assert train.main([*argv, "--image-size", "0", "--epochs", "1", "--batch-size", "2"]) == 0


@pytest.mark.parametrize("size", [250, 768])
def test_row_44_any_slice_size_is_predicted_at_its_own_size(tmp_path, tiny, size):
    from tf_liver.model.predictor import SlicePredictor
    from tf_liver.model.unet import build_network

    native = replace(tiny, image_size=0, backbone="resnet18")
    slices = np.random.default_rng(0).integers(-1000, 1000, (1, size, size + 7)).astype(np.float32)
    probability = SlicePredictor(build_network(native), native)(slices)
    assert probability.shape == slices.shape
    assert np.isfinite(probability).all()
