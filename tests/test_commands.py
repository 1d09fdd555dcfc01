"""Commands as users meet them: help, bad input in one line, exit codes."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import TINY, write_nifti

from tf_liver import evaluate, export, predict, prepare, train
from tf_liver import phantoms as phantoms_command

ROOT = Path(__file__).parents[1]
COMMANDS = ("train", "evaluate", "predict", "export", "phantoms", "prepare", "report", "verify", "download")


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
        (["--workers", "0"], "--workers: must be at least 1. Received: 0"),
        (["--seed", "-1"], "--seed: must lie in [0, 4294967295]. Received: -1"),
        (
            ["--loss", "mse"],
            "loss: must be one of bce, dice, bce_dice, focal_tversky, bce_focal_tversky. Received: 'mse'",
        ),
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


def test_train_refuses_cheap_mistakes_before_it_prepares(capsys, phantoms, tmp_path):
    argv = ["--experiment", "demo", "--data", phantoms, "--prepared", tmp_path / "prepared", "--runs"]
    assert "backbone: must be one of" in refused(capsys, train, *argv, tmp_path / "runs", "--backbone", "resnet35")
    (tmp_path / "file").touch()
    assert "file" in refused(capsys, train, *argv, tmp_path / "file")
    assert not (tmp_path / "prepared").exists()


def test_prepare_refuses_no_workers(capsys, phantoms, tmp_path):
    line = refused(capsys, prepare, phantoms, "--prepared", tmp_path, "--workers", 0)
    assert "--workers: must be at least 1. Received: 0" in line


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
    (half / "checkpoints" / "hashes.json").unlink()
    (half / "checkpoints" / "best.weights.h5").touch()
    assert "run.json: not JSON" in refused(capsys, evaluate, half)


def test_predict_refuses_what_is_not_a_scan(capsys, tmp_path, trained):
    page = tmp_path / "scan.nii.gz"
    page.write_bytes(b"<!DOCTYPE html>")
    line = refused(capsys, predict, page, "--run", trained, "-o", tmp_path / "out")
    assert "scan.nii.gz: not a NIfTI file" in line
    assert "No such file" in refused(capsys, predict, tmp_path / "no.nii", "--run", trained, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predict_never_replaces_a_scan_or_a_label_map(capsys, tmp_path, trained, phantoms):
    scans = [tmp_path / name / "x.nii.gz" for name in "ab"]
    for scan in scans:
        scan.parent.mkdir()
        shutil.copy(phantoms / "imagesTr" / "phantom_00.nii.gz", scan)
    before = scans[0].read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    line = refused(capsys, predict, scans[0], "--run", trained, "-o", tmp_path / "link")
    assert "would replace the scan" in line
    assert scans[0].read_bytes() == before
    twin = tmp_path / "a" / "x.nii"
    twin.touch()
    assert "would replace that of" in refused(capsys, predict, scans[0], twin, "--run", trained, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predict_never_mixes_up_probabilities_and_label_maps(capsys, tmp_path, trained, phantoms):
    scans = [tmp_path / f"x{end}.nii.gz" for end in ("", "-probability")]
    for scan in scans:
        shutil.copy(phantoms / "imagesTr" / "phantom_00.nii.gz", scan)
    output = ("--run", trained, "-o", tmp_path / "out", "--probabilities")
    assert "x-probability.nii.gz would replace that of" in refused(capsys, predict, *scans, *output)
    line = refused(capsys, predict, scans[0], "--run", trained, "-o", tmp_path, "--probabilities")
    assert "would replace the scan" in line


def test_predict_goes_on_after_a_bad_scan(capsys, tmp_path, trained, phantoms):
    (tmp_path / "bad.nii").touch()
    good = phantoms / "imagesTr" / "phantom_00.nii.gz"
    argv = ["--run", str(trained), "-o", str(tmp_path / "out")]
    assert predict.main([str(tmp_path / "bad.nii"), str(good), *argv]) == 1
    said = capsys.readouterr()
    error, *warnings = said.err.splitlines()
    assert error == f"error: {tmp_path / 'bad.nii'}: the file is empty"
    assert all(line.startswith(f"warning: {good}: ") for line in warnings)
    assert "\n1 of 2 scans done in " in said.out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["phantom_00.json", good.name]
    assert predict.main([str(tmp_path / "bad.nii"), str(tmp_path / "no.nii"), *argv]) == 2


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_gone_is_no_error(lines):
    code = (
        "from tf_liver.command import command\n"
        f"main = command(lambda argv=None: print('line\\n' * {lines}) or 0)\n"
        "raise SystemExit(main([]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_switch_shows_no_default_and_a_zero_does(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "preparing their slices once --" in text
    assert "do not depend on it (default: 0)" in text


@pytest.mark.parametrize(("visible", "shown"), [("0", True), ("-1", False)])
def test_a_gpu_that_tensorflow_misses_is_spoken_of(visible, shown):
    code = (
        "import pathlib, sys, types, os, tf_liver.command as c\n"
        "tf = types.ModuleType('tensorflow')\n"
        "tf.config = types.SimpleNamespace(list_physical_devices=lambda kind: os.write(2, b'no driver\\n') and [])\n"
        "tf.constant = float\n"
        "tf.get_logger = lambda: types.SimpleNamespace(setLevel=print)\n"
        "sys.modules['tensorflow'] = tf\n"
        "c._NVIDIA = pathlib.Path('/dev/null')\n"
        "c.quiet_tensorflow()"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    err = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stderr
    assert ("no driver" in err and "TensorFlow sees no GPU" in err) == shown
    assert bool(err) == shown


def test_make_quotes_the_data_folder():
    done = subprocess.run(["make", "-n", "train", "DATA=my scans"], capture_output=True, text=True, cwd=ROOT)
    assert '--data "my scans"' in done.stdout


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
