"""An exported run on real CT: every signature in the C++ loader, and whole scans through a server."""

import nibabel as nib
import numpy as np
import pytest
from serving_servers import standin

from tf_liver import export, predict
from tf_liver.data.nifti import read_volume
from tf_liver.experiment import replace
from tf_liver.model.folding import folded
from tf_liver.model.predictor import ScanPredictor
from tf_liver.model.unet import load_network
from tf_liver.runs import Run
from tf_liver.serving.check import check_model, dice_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported_run(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    assert export.main([str(trained), "--output", str(folder)]) == 0
    return folder


def test_every_signature_in_a_fresh_process_equals_predict(exported_run, trained, real_data, tmp_path):
    """`predict` resizes with OpenCV and folds as the export does: float32 apart by rounding."""
    run = Run.open(trained)
    network = load_network(replace(run.experiment, precision="float32"), str(run.require_checkpoint("best")))
    own = ScanPredictor(folded(network, "float32"), run.experiment)
    for case, some in (("amos_0013_slab", slice(5, 6)), ("totalseg_example_ct", slice(None))):
        slices = np.ascontiguousarray(read_volume(real_data / "other" / f"{case}_image.nii.gz").slices[some])
        found = check_model(exported_run / "tf_liver" / "1", tmp_path, slices, own)
        assert found["max_probability_difference"] < 1e-3
        assert found["least_dice"] > 0.9999


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_whole_scans_through_a_server_equal_predict(exported_run, trained, real_data, tmp_path, protocol):
    scans = sorted((real_data / "other").glob("*_image.nii.gz"))
    assert predict.main([*map(str, scans), "-o", str(tmp_path / "here"), "--run", str(trained)]) == 0
    with standin(exported_run) as server:
        argv = ["-o", str(tmp_path / "there"), "--server", server.url(protocol)]
        assert predict.main([*map(str, scans), *argv]) == 0
    for scan in scans:
        here, there = (np.asarray(nib.load(tmp_path / where / scan.name).dataobj) for where in ("here", "there"))
        assert dice_of(here > 0, there > 0) > 0.9999
        assert (here != there).sum() <= 20  # voxels within float32's rounding of the threshold
