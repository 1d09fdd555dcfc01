"""`predict --server` and `predict` write the same label maps."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from serving_servers import standin

from tf_liver import export, predict


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """A server over the export of a run."""
    folder = tmp_path_factory.mktemp("served")
    assert export.main([str(trained), "--output", str(folder)]) == 0
    with standin(folder) as server:
        yield server


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_equal_to_predict(served, trained, phantoms, tmp_path, capsys, protocol):
    scans = sorted(map(str, (phantoms / "imagesTr").iterdir()))[:2]
    assert predict.main([*scans, "-o", str(tmp_path / "here"), "--run", str(trained)]) == 0
    argv = ["-o", str(tmp_path / "there"), "--server", served.url(protocol), "--version", "1"]
    assert predict.main([*scans, *argv]) == 0
    assert f"predicting with {served.url(protocol)}" in capsys.readouterr().out
    for path in (tmp_path / "here").glob("*.nii.gz"):
        assert voxels(path).any()
        np.testing.assert_array_equal(voxels(path), voxels(tmp_path / "there" / path.name))


@pytest.mark.slow
def test_postprocessing_is_the_served_models_own(trained, phantoms, tmp_path):
    """What happens to a whole label map happens here, as the experiment of the served model says."""
    run = shutil.copytree(trained, tmp_path / "run")
    table = json.loads((run / "experiment.json").read_text()) | {"postprocessing": "largest_filled"}
    (run / "experiment.json").write_text(json.dumps(table))
    assert export.main([str(run), "--output", str(tmp_path)]) == 0
    scan = str(next((phantoms / "imagesTr").iterdir()))
    assert predict.main([scan, "-o", str(tmp_path / "here"), "--run", str(run)]) == 0
    with standin(tmp_path) as server:
        assert predict.main([scan, "-o", str(tmp_path / "there"), "--server", server.url("rest")]) == 0
    (name,) = (path.name for path in (tmp_path / "here").glob("*.nii.gz"))
    np.testing.assert_array_equal(voxels(tmp_path / "here" / name), voxels(tmp_path / "there" / name))


def test_refusals_in_one_line(served, phantoms, tmp_path, capsys):
    scan = str(next((phantoms / "imagesTr").iterdir()))
    for argv, message in (
        (["--server", "host:8501"], "server: must be like http://host:8501"),
        (["--server", "http://host:8501", "--tta"], "so no --run, --tta, --probabilities"),
        (["--server", served.url("grpc"), "--version", "9"], "NOT_FOUND: Servable not found"),
        (["--server", served.url("rest"), "--model", "spleen"], "404: Servable not found"),
    ):
        assert predict.main([scan, "-o", str(tmp_path / "out"), *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "out").exists()
