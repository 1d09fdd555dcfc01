"""A tumour model on its way: label maps with 2 in them, scores, statistics, probabilities; served: tests/serving."""

import csv
import json
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
from small import TINY

from tf_liver import evaluate, export, predict, train
from tf_liver.data.cases import find_cases
from tf_liver.data.nifti import read_label, read_volume
from tf_liver.experiment import replace
from tf_liver.model.predictor import Averaged, Mirrored, ScanPredictor, SlicePredictor
from tf_liver.runs import Run
from tf_liver.volume.crossvalidation import score_seed
from tf_liver.volume.inference import labels_of, segment_volume

HEADS = {"regions": 2, "classes": 3}
CASE = "phantom_00"


@pytest.fixture(scope="module")
def seeking(tiny):
    return replace(tiny, task="tumour")


@pytest.fixture(scope="module")
def seldom(tumour_run, tmp_path_factory):
    """The same network, sure that there is no tumour."""
    other = Run(shutil.copytree(tumour_run.path, tmp_path_factory.mktemp("seldom") / "run"))
    with h5py.File(other.checkpoint("best"), "r+") as file:
        found: list[str] = []
        file.visit(found.append)
        (bias,) = (name for name in found if getattr(file[name], "shape", None) == (2,))  # of the head
        file[bias][1] = -50
    return other


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return {row["region"]: row for row in csv.DictReader(file)}


def test_labels_by_hand():
    liver, tumour = np.array([0.9, 0.9, 0.1, 0.5]), np.array([0.1, 0.5, 0.9, 0.4])
    found = labels_of(np.stack([liver, tumour], axis=-1)[None, None])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[[1, 2, 0, 1]]])  # a tumour outside the liver is none
    np.testing.assert_array_equal(labels_of(liver[None, None]), [[[1, 1, 0, 1]]])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [0, 32])
def test_predict_and_export_give_the_same_two_probabilities(seeking, head, size):
    wild = tf.keras.initializers.RandomNormal(0, 5, seed=1)  # all three labels occur
    layer = tf.keras.layers.Conv2D(HEADS[head], 5, padding="same", kernel_initializer=wild, input_shape=(None, None, 1))
    network = tf.keras.Sequential([layer])
    experiment = replace(seeking, tumour_head=head, image_size=size)
    images = np.random.default_rng(0).integers(-1024, 1500, (19, 45, 70)).astype(np.float32)
    expected = SlicePredictor(network, experiment)(images).numpy()
    assert expected.shape == (19, 45, 70, 2)
    own = ScanPredictor(network, experiment)
    np.testing.assert_allclose(own(images), expected, atol=2e-5)
    np.testing.assert_array_equal(Averaged([own, own])(images), own(images))
    assert Mirrored(own)(images).shape == expected.shape
    label_map = segment_volume(own, images)
    np.testing.assert_array_equal(label_map > 0, own(images)[..., 0] >= 0.5)
    assert set(np.unique(label_map)) == {0, 1, 2}


def test_predict_writes_labels_statistics_and_both_probabilities(tumour_run, phantoms, tmp_path, capsys):
    scan = phantoms / "imagesTr" / f"{CASE}.nii.gz"
    assert predict.main([str(scan), "-o", str(tmp_path), "--run", str(tumour_run.path), "--probabilities"]) == 0
    found = json.loads((tmp_path / f"{CASE}.json").read_text())
    label_map, volume = read_label(tmp_path / scan.name).slices, read_volume(scan)
    assert found["liver_ml"] == pytest.approx(np.count_nonzero(label_map) * volume.voxel_ml)
    assert found["tumour_ml"] == pytest.approx((label_map == 2).sum() * volume.voxel_ml)
    assert found["tumour_count"] > 0
    assert f"{found['tumour_count']} tumours of {found['tumour_ml']:.1f} ml" in capsys.readouterr().out
    of_liver, of_tumour = (
        nib.load(tmp_path / f"{CASE}{name}-probability.nii.gz").get_fdata() >= 0.5 for name in ("", "-tumour")
    )
    written = np.asarray(nib.load(tmp_path / scan.name).dataobj)
    np.testing.assert_array_equal(written, of_liver.astype(int) + (of_liver & of_tumour))


@pytest.mark.slow
def test_evaluate_scores_tumours_with_their_lesions(tumour_run, tmp_path):
    assert evaluate.main([str(tumour_run.path), "--output", str(tmp_path), "--workers", "1"]) == 0
    rows = rows_of(tmp_path)
    assert list(rows) == ["liver", "tumour"]
    assert float(rows["tumour"]["prediction_ml"]) > 0
    assert int(rows["tumour"]["lesions_invented"]) > 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["lits"]) == {"liver", "tumour", "lesions", "tumour_burden"}
    (case,) = (tmp_path / "predictions").glob("*.json")
    assert json.loads(case.read_text())["tumour_count"] > 0
    assert "tumour" in (tmp_path / "report.html").read_text()


def test_a_tumour_model_that_finds_none_is_scored_for_it(seldom, phantoms, tmp_path):
    assert evaluate.main([str(seldom.path), "--data", str(phantoms), "--output", str(tmp_path), "--workers", "1"]) == 0
    (held_out,) = seldom.read_json("split.json")["held_out"]
    row = rows_of(tmp_path)["tumour"]
    there = bool((read_label(phantoms / "labelsTr" / f"{held_out}.nii.gz").voxels == 2).any())
    assert (row["case_id"], float(row["prediction_ml"]), float(row["dice"])) == (held_out, 0, 0 if there else 1)
    assert (int(row["lesions_missed"]) > 0, int(row["lesions_invented"])) == (there, 0)


def test_a_crossvalidation_that_finds_none_is_scored_for_it(phantoms, tmp_path):
    case = next(c for c in find_cases(phantoms) if (read_label(c.label).voxels == 2).any())
    label = nib.load(case.label)
    none = nib.Nifti1Image((np.asarray(label.dataobj) > 0).astype(np.uint8), label.affine)
    nib.save(none, tmp_path / "none.nii.gz")
    rows = score_seed([case], {case.case_id: tmp_path / "none.nii.gz"}, tmp_path / "out", {}, 1, tumours=True)
    assert [(row.region, row.dice) for row in rows] == [("liver", 1), ("tumour", 0)]


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_it_trains_evaluates_predicts_and_exports_on_phantoms(phantoms, tmp_path, head):
    argv = ["--experiment", "tumour", "--data", str(phantoms), "--run", str(tmp_path / "run"), *TINY]
    assert train.main([*argv, "--tumour-head", head, "--loss", "bce_focal_tversky"]) == 0
    with open(tmp_path / "run" / "log.csv") as file:
        (*_, last) = csv.DictReader(file)
    dices = [float(last[f"val_{name}_dice"]) for name in ("liver", "tumour")]
    assert float(last["val_dice"]) == pytest.approx(np.mean(dices))
    assert evaluate.main([str(tmp_path / "run"), "--workers", "1"]) == 0
    assert list(rows_of(tmp_path / "run" / "evaluation")) == ["liver", "tumour"]
    scan = str(phantoms / "imagesTr" / f"{CASE}.nii.gz")
    assert predict.main([scan, "-o", str(tmp_path / "out"), "--run", str(tmp_path / "run"), "--tta"]) == 0
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "export")]) == 0
