"""Commands as users meet them: help, bad input in one line, exit codes."""

import gzip
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY, write_nifti

from tf_liver import evaluate, export, predict, train
from tf_liver import phantoms as phantoms_command

COMMANDS = ("train", "evaluate", "predict", "export", "phantoms", "prepare", "verify", "download")


def run(capsys, module, *argv):
    """Return exit code and error output of a command."""
    try:
        code = module.main([str(a) for a in argv])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def refused(capsys, module, *argv):
    """Return the one line with which a command refuses bad input."""
    code, err = run(capsys, module, *argv)
    lines = [line for line in err.splitlines() if not line.startswith("warning:")]
    assert code == 2, err
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_defaults_and_needs_no_tensorflow(name):
    code = (
        f"import sys, tf_liver.{name} as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit as e: sys.exit(3 if 'tensorflow' in sys.modules else e.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--debug" in done.stdout
    assert "(default: " in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--experiment", "basline"], "no 'basline'; there are: baseline"),
        (["--epoch", "3"], "--epoch: no such option; did you mean --epochs?"),
        (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
        (["--epochs", "0"], "epochs: must lie in [1, 1e+06]. Received: 0"),
        (["--window-hu", "5", "-5"], "window_hu: low must lie below high. Received: 5 -5"),
        (["--loss", "mse"], "loss: must be one of bce, dice, bce_dice. Received: 'mse'"),
        (["--fold", "9"], "fold: must lie in [0, 3] for 4 cases. Received: 9"),
        (["--data", "/nowhere"], "/nowhere: there is no such data folder. Task03_Liver"),
        (["--data", "EMPTY"], "must hold imagesTr/ and labelsTr/"),
    ],
)
def test_train_refuses_in_one_line(capsys, phantoms, tmp_path, argv, message):
    (tmp_path / "empty").mkdir()
    argv = [str(tmp_path / "empty") if a == "EMPTY" else a for a in argv]
    data = [] if "--data" in argv else ["--data", phantoms]
    assert message in refused(capsys, train, *data, *argv, "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def copied(phantoms, tmp_path):
    """A data folder of one's own to break."""
    return shutil.copytree(phantoms, tmp_path / "data")


def break_label_value(path):
    voxels = np.zeros((4, 4, 4), np.uint8)
    voxels[0] = 7
    write_nifti(path, voxels)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("labelsTr/phantom_01.nii.gz", lambda p: p.unlink(), "case phantom_01 has no label, yet dataset.json"),
        ("labelsTr/phantom_01.nii.gz", lambda p: p.write_bytes(p.read_bytes()[:-9]), "damaged gzip stream"),
        ("labelsTr/phantom_01.nii.gz", break_label_value, "label values must be 0, 1, 2. Received: 7"),
        ("imagesTr/phantom_01.nii.gz", lambda p: p.write_bytes(p.read_bytes()[:900]), "damaged gzip stream"),
        ("imagesTr/phantom_01.nii.gz", lambda p: write_nifti(p, np.zeros((4, 4, 4), np.int16)), "one shape"),
    ],
)
def test_train_names_the_broken_file(capsys, copied, tmp_path, file, damage, message):
    damage(copied / file)
    line = refused(capsys, train, "--experiment", "demo", "--data", copied, "--runs", tmp_path / "runs", *TINY)
    assert message in line
    assert "phantom_01" in line


def test_evaluate_export_and_predict_need_a_run(capsys, tmp_path, trained):
    scan = tmp_path / "scan.nii"
    for module, argv in ((evaluate, []), (export, ["--output", tmp_path]), (predict, [scan, "-o", tmp_path])):
        assert "there is no run yet" in refused(capsys, module, *argv, "--runs", tmp_path)
    assert "no such run folder" in refused(capsys, evaluate, tmp_path / "x")
    assert "not a run folder: experiment.json is missing" in refused(capsys, evaluate, tmp_path)
    half = shutil.copytree(trained, tmp_path / "half")
    (half / "checkpoints" / "best.weights.h5").unlink()
    for module in (evaluate, export):
        assert "has no checkpoint best.weights.h5" in refused(capsys, module, half)
    (half / "run.json").write_text("{")
    (half / "checkpoints" / "best.weights.h5").touch()
    assert "run.json: not JSON" in refused(capsys, evaluate, half)


def test_predict_refuses_what_is_not_a_scan(capsys, tmp_path, trained):
    page = tmp_path / "scan.nii.gz"
    page.write_bytes(b"<!DOCTYPE html>")
    line = refused(capsys, predict, page, "--run", trained, "-o", tmp_path / "out")
    assert "scan.nii.gz: not a NIfTI file" in line
    assert "No such file" in refused(capsys, predict, tmp_path / "no.nii", "--run", trained, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(capsys):
    code, err = run(capsys, train, "--data", "/nowhere", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_an_error_of_ours_is_one_line_and_code_1(capsys, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr(phantoms_command, "write_phantoms", broken)
    code, err = run(capsys, phantoms_command)
    assert code == 1
    assert err == "error: KeyError: 'x' (--debug shows where)\n"


def test_phantoms_command(capsys, tmp_path):
    assert phantoms_command.main(["-o", str(tmp_path), "--cases", "2", "--size", "40"]) == 0
    assert len(json.loads((tmp_path / "dataset.json").read_text())["training"]) == 2
    assert "2 phantoms" in capsys.readouterr().out
    assert "cases must be at least 1" in refused(capsys, phantoms_command, "--cases", "0")


def test_predict_writes_the_scans_own_grid(capsys, trained, phantoms, tmp_path):
    import nibabel as nib

    scans = sorted((phantoms / "imagesTr").iterdir())[:3]
    assert predict.main([*map(str, scans), "-o", str(tmp_path), "--run", str(trained)]) == 0
    for scan in scans:
        source, out = nib.load(scan), nib.load(tmp_path / scan.name)
        assert out.shape == source.shape
        assert out.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(out.affine, source.affine)
        assert out.header["sform_code"] == source.header["sform_code"]
        assert gzip.decompress((tmp_path / scan.name).read_bytes())[:4] == b"\x5c\x01\0\0"
