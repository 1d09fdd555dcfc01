"""The command predict: what it says, writes and refuses."""

import json
import os
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from small import write_nifti

from tf_liver import predict
from tf_liver.data.nifti import read_volume
from tf_liver.experiment import replace
from tf_liver.runs import Run
from tf_liver.volume import inference


def refused(capsys, *argv):
    assert predict.main([str(a) for a in argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def copy_of(run, folder, **changes):
    """A run with the same weights and some fields of its experiment changed."""
    shutil.copytree(run, folder)
    experiment = replace(Run.open(run).experiment, **changes)
    (folder / "experiment.json").write_text(experiment.to_json())
    return folder


def labels(path):
    return np.asarray(nib.load(path).dataobj)


def test_a_folder_of_scans_with_statistics_and_probabilities(capsys, trained, phantoms, tmp_path):
    assert (
        predict.main([str(phantoms / "imagesTr"), "-o", str(tmp_path), "--run", str(trained), "--probabilities"]) == 0
    )
    said = capsys.readouterr().out
    assert "; float32\n" in said
    assert "4 of 4 scans done in " in said
    assert "slices/s" in said
    for scan in sorted((phantoms / "imagesTr").iterdir()):
        case = scan.name.removesuffix(".nii.gz")
        found = json.loads((tmp_path / f"{case}.json").read_text())
        volume, label_map = read_volume(scan), labels(tmp_path / scan.name)
        assert found["liver_ml"] == pytest.approx(np.count_nonzero(label_map) * volume.voxel_ml)
        assert found["tumour_count"] is None
        assert f"{tmp_path / scan.name}: liver {found['liver_ml']:.1f} ml" in said
        probability = nib.load(tmp_path / f"{case}-probability.nii.gz")
        np.testing.assert_array_equal(label_map, probability.get_fdata() >= 0.5)
        np.testing.assert_array_equal(probability.affine, nib.load(scan).affine)


def test_evaluate_predict_and_export_agree(trained, phantoms, tmp_path):
    """The label map of the command, of `segment_volume` as evaluate calls it, and of the graph that is exported."""
    from tf_liver.model.predictor import SlicePredictor, load_predictor
    from tf_liver.model.unet import load_network
    from tf_liver.volume.inference import segment_volume

    scan = phantoms / "imagesTr" / "phantom_02.nii.gz"
    run = Run.open(trained)
    weights = str(run.require_checkpoint("best"))
    assert predict.main([str(scan), "-o", str(tmp_path), "--run", str(trained), "--probabilities"]) == 0
    written = read_volume(tmp_path / scan.name).slices
    probability = read_volume(tmp_path / "phantom_02-probability.nii.gz").slices
    slices = read_volume(scan).slices
    exported = SlicePredictor(load_network(run.experiment, weights), run.experiment)(slices.astype(np.float32)).numpy()
    np.testing.assert_array_equal(segment_volume(load_predictor(run.experiment, weights)[0], slices), written)
    np.testing.assert_allclose(probability, exported, atol=2e-4)
    surely = np.abs(exported - 0.5) > 2e-4
    np.testing.assert_array_equal(written[surely], exported[surely] >= 0.5)


@pytest.mark.slow
def test_folds_are_averaged_each_with_its_own_normalisation(trained, phantoms, tmp_path):
    other = copy_of(trained, tmp_path / "other", normalisation="clip_max", image_size=64)
    scan = phantoms / "imagesTr" / "phantom_00.nii.gz"
    maps = []
    for name, runs in (("a", [trained]), ("b", [other]), ("both", [trained, other])):
        argv = [str(scan), "-o", str(tmp_path / name), "--probabilities", "--run", *map(str, runs)]
        assert predict.main(argv) == 0
        maps.append(nib.load(tmp_path / name / "phantom_00-probability.nii.gz").get_fdata())
    assert np.abs(maps[0] - maps[1]).max() > 0.01
    np.testing.assert_allclose(maps[2], (maps[0] + maps[1]) / 2, atol=2e-5)


def test_mirror_images_are_averaged(trained, phantoms, tmp_path):
    """A scan and its mirror image get mirrored answers with --tta, and others without."""
    scan = phantoms / "imagesTr" / "phantom_00.nii.gz"
    image = nib.load(scan)
    mirrored = tmp_path / "mirrored.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), mirrored)
    apart = {}
    for name, options in (("plain", []), ("tta", ["--tta"])):
        argv = [str(scan), str(mirrored), "-o", str(tmp_path / name), "--run", str(trained), "--probabilities"]
        assert predict.main([*argv, *options]) == 0
        maps = [nib.load(tmp_path / name / f"{c}-probability.nii.gz").get_fdata() for c in ("phantom_00", "mirrored")]
        apart[name] = np.abs(maps[0] - maps[1][::-1]).max()
    assert apart["tta"] < 2e-3 < apart["plain"]


def test_runs_that_cannot_be_averaged_are_refused(capsys, trained, tmp_path):
    scan = tmp_path / "scan.nii"
    other = copy_of(trained, tmp_path / "other", postprocessing="largest")
    line = refused(capsys, scan, "-o", tmp_path / "out", "--run", trained, other)
    assert f"{other}: postprocessing must be that of {trained}, none. Received: largest" in line
    rotated = copy_of(trained, tmp_path / "rotated", augmentation="rotate")
    line = refused(capsys, scan, "-o", tmp_path / "out", "--tta", "--run", rotated)
    assert "(augmentation flip_rotate or flip_rotate_intensity). Received: rotate" in line


def test_another_models_weights_are_refused(capsys, trained, phantoms, tmp_path):
    other = copy_of(trained, tmp_path / "other", backbone="resnet34")
    line = refused(capsys, phantoms / "imagesTr" / "phantom_00.nii.gz", "-o", tmp_path / "out", "--run", other)
    assert "best.weights.h5: does not hold the weights of demo" in line
    assert not (tmp_path / "out").exists()


def test_nan_from_the_network_is_refused(capsys, trained, phantoms, tmp_path):
    import h5py

    def floats(item):
        return isinstance(item, h5py.Dataset) and item.dtype.kind == "f"

    broken = copy_of(trained, tmp_path / "broken")
    with h5py.File(broken / "checkpoints" / "best.weights.h5", "r+") as file:
        file["/"].visititems(
            lambda _, item: item.write_direct(np.full(item.shape, np.nan, "f4")) if floats(item) else None
        )
    (broken / "checkpoints" / "hashes.json").unlink()
    line = refused(capsys, phantoms / "imagesTr" / "phantom_00.nii.gz", "-o", tmp_path / "out", "--run", broken)
    assert "probabilities must be numbers. Received: NaN in slices 0 to " in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "said"),
    [((4, 5, 6, 2), "a scan must have 3 dimensions"), ((4, 5), "a scan must have 3 dimensions")],
)
def test_what_has_not_three_dimensions_is_refused(capsys, trained, tmp_path, shape, said):
    scan = write_nifti(tmp_path / "scan.nii", np.zeros(shape, np.int16))
    assert said in refused(capsys, scan, "-o", tmp_path / "out", "--run", trained)
    assert not (tmp_path / "out").exists()


def test_a_dicom_series_is_segmented_and_one_with_a_gap_named(capsys, trained, tmp_path):
    pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
    from data.test_dicom import series

    series(tmp_path / "good")
    series(tmp_path / "gap", skip=(3,))
    argv = [str(tmp_path / "gap"), str(tmp_path / "good"), "-o", str(tmp_path / "out"), "--run", str(trained)]
    assert predict.main(argv) == 1
    said = capsys.readouterr()
    assert "gap: missing slices (1) between" in said.err
    assert "\n1 of 2 scans done in " in said.out
    out = nib.load(tmp_path / "out" / "good.nii.gz")
    assert (out.shape, out.get_data_dtype()) == ((4, 5, 6), np.uint8)
    np.testing.assert_allclose(
        out.affine, [[-0.7, 0, 0, 100], [0, -0.8, 0, 80], [0, 0, 2.5, 50], [0, 0, 0, 1]], atol=1e-4
    )


def test_an_output_that_cannot_be_written_is_refused_before_any_work(capsys, trained, phantoms, tmp_path):
    scan = phantoms / "imagesTr" / "phantom_00.nii.gz"
    (tmp_path / "file").touch()
    assert "file" in refused(capsys, scan, "-o", tmp_path / "file" / "out", "--run", trained)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting read-only needs root")
def test_a_read_only_output_is_refused(capsys, trained, phantoms, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        scan = phantoms / "imagesTr" / "phantom_00.nii.gz"
        assert "Read-only file system" in refused(capsys, scan, "-o", disk / "out", "--run", trained)
    finally:
        subprocess.run(["umount", disk], check=True)


def a_ct(path, offset=0):
    """Air around a body of soft tissue with some bone, and noise."""
    voxels = np.full((40, 40, 6), -1000.0)
    voxels[4:36, 4:36], voxels[18:22, 6:10] = 40, 700
    voxels += np.random.default_rng(0).normal(0, 10, voxels.shape)
    return write_nifti(path, (np.clip(voxels, -1000, None) + offset).astype(np.int16), np.diag([8, 8, 8, 1]))


def test_row_81_an_offset_is_named_and_taken_off_when_asked_for(capsys, trained, tmp_path):
    plain, shifted = a_ct(tmp_path / "plain.nii"), a_ct(tmp_path / "shifted.nii", 1024)
    line = ["-o", str(tmp_path / "out"), "--run", str(trained)]
    assert predict.main([str(plain), str(shifted), *line]) == 0
    out, err = capsys.readouterr()
    assert f"warning: {shifted}: HU look shifted by +1024" in err
    assert out.endswith("; 2 with warnings\n")
    assert f"warning: {plain}: HU" not in err
    assert "--hu-offset -1024" in json.loads((tmp_path / "out" / "shifted.json").read_text())["warnings"][-1]
    before = labels(tmp_path / "out" / "plain.nii.gz")
    assert predict.main([str(shifted), *line, "--hu-offset", "-1024"]) == 0
    assert "HU look" not in capsys.readouterr().err
    np.testing.assert_array_equal(labels(tmp_path / "out" / "shifted.nii.gz"), before)


def test_row_82_a_label_map_is_refused_and_the_scan_beside_it_segmented(capsys, trained, phantoms, tmp_path):
    shutil.copy(phantoms / "imagesTr" / "phantom_00.nii.gz", tmp_path / "scan.nii.gz")
    shutil.copy(phantoms / "labelsTr" / "phantom_00.nii.gz", tmp_path / "scan_label.nii.gz")
    assert predict.main([str(tmp_path), "-o", str(tmp_path / "out"), "--run", str(trained)]) == 1
    out, err = capsys.readouterr()
    assert "scan_label.nii.gz: must be a CT, not a label map. Received: whole numbers from 0 to" in err
    assert "1 of 2 scans done" in out
    assert [p.name for p in sorted((tmp_path / "out").glob("*.nii.gz"))] == ["scan.nii.gz"]


def test_row_84_whatever_one_scan_makes_a_reader_raise_is_its_own_failure(capsys, trained, tmp_path, monkeypatch):
    """A stand-in for the surprises of readers: every one that is known by now is refused before it gets here."""
    scans = [a_ct(tmp_path / f"{name}.nii") for name in ("a", "odd", "b")]
    real = inference.read_scan

    def surprising(scan):
        if scan.name == "odd.nii":
            raise TypeError("unhashable")
        return real(scan)

    monkeypatch.setattr(inference, "read_scan", surprising)
    assert predict.main([*map(str, scans), "-o", str(tmp_path / "out"), "--run", str(trained)]) == 1
    assert f"error: {scans[1]}: cannot be read: TypeError: unhashable" in capsys.readouterr().err
    assert [p.name for p in sorted((tmp_path / "out").glob("*.nii.gz"))] == ["a.nii.gz", "b.nii.gz"]
