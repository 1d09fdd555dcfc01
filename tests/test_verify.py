import json
import os
import shutil
import subprocess
import sys

import pytest

from tf_liver import verify


def run(capsys, *argv):
    code = verify.main([str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def read_json(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_phantoms_are_clean(capsys, phantoms, tmp_path):
    code, out, err = run(capsys, phantoms, "-o", tmp_path, "--workers", 1, "--strict")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split()[:4] == ["case", "shape", "spacing", "mm"]
    assert [line.split()[0] for line in lines[2:6]] == [f"phantom_0{n}" for n in range(4)]
    assert "LPS" in lines[3]
    assert lines[-1].startswith(f"{phantoms}: 4 cases, 0 errors, 0 warnings; details in ")
    record = read_json(tmp_path, "verification")
    assert [c["case_id"] for c in record["cases"]] == [f"phantom_0{n}" for n in range(4)]
    assert (record["errors"], record["warnings"], record["quick"]) == ([], [], False)
    low, high = read_json(tmp_path, "fingerprint")["suggested_window_hu"]
    assert f"--window-hu {low:g} {high:g}" in out
    assert low < 0 < 200 < high


def test_processes_find_what_one_finds(capsys, phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    broken = data / "imagesTr" / "phantom_02.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-8])
    found = []
    for workers in (1, 3):
        code, out, _ = run(capsys, data, "-o", tmp_path / "out", "--workers", workers)
        assert code == 2
        found.append((out, read_json(tmp_path / "out", "verification"), read_json(tmp_path / "out", "fingerprint")))
    assert found[0] == found[1]
    assert "error: imagesTr/phantom_02.nii.gz: damaged gzip stream" in found[0][0]


def test_quick_reads_headers_only(capsys, phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    whole = data / "imagesTr" / "phantom_02.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-8])  # only reading it all would tell
    code, out, _ = run(capsys, data, "-o", tmp_path / "out", "--quick")
    assert code == 0
    assert "suggested window" not in out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["verification.json"]
    assert all(c["hu_range"] is None and c["shape"] for c in read_json(tmp_path / "out", "verification")["cases"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["/nowhere"], "/nowhere: there is no such data folder"),
        (["DATA", "--workers", "0"], "workers must be at least 1. Received: 0"),
        (["DATA", "--workers", "1", "-o", "/dev/null/x"], "Not a directory"),
    ],
)
def test_refused_in_one_line(capsys, phantoms, argv, message):
    code, _, err = run(capsys, *[phantoms if a == "DATA" else a for a in argv])
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_the_command_itself_exits_with_its_code(phantoms, tmp_path):
    """As users run it: spawned workers import the main module again, and must not run it."""
    data = shutil.copytree(phantoms, tmp_path / "data")
    (data / "labelsTr" / "phantom_00.nii.gz").unlink()
    command = [sys.executable, "-m", "tf_liver.verify", data, "-o", tmp_path / "out", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ""
    assert done.stdout.count("verifying cases") == 1
    assert "error: labelsTr: case phantom_00 has no label, yet dataset.json lists it" in done.stdout


def test_real_scans_have_true_warnings_only(capsys, real_data, tmp_path):
    """The excerpt is clipped to [-160, 240] HU; its spacing is true, its voxel counts are known."""
    code, _, _ = run(capsys, real_data / "Task03_Liver", "-o", tmp_path)
    assert code == 0
    record = read_json(tmp_path, "verification")
    assert record["errors"] == []
    assert len(record["warnings"]) == len(record["cases"]) == 5
    assert all(": HU looks clipped or scaled" in w["message"] for w in record["warnings"])
    first, voxel_ml = record["cases"][0], 0.703**2 * 5 / 1000
    assert first["spacing_mm"] == pytest.approx([0.703, 0.703, 5], rel=1e-6)
    assert first["liver_ml"] == pytest.approx((549_266 + 2_591) * voxel_ml, rel=1e-6) == pytest.approx(1364, abs=0.5)
    assert first["tumour_ml"] == pytest.approx(2_591 * voxel_ml, rel=1e-6)
    assert read_json(tmp_path, "fingerprint")["liver_ml"]["min"] == pytest.approx(first["liver_ml"], rel=0.3)


def test_row_88_a_name_that_is_no_utf_8_is_verified(phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    name = os.fsdecode(b"M\xfcller")
    for kind in ("imagesTr", "labelsTr"):
        (data / kind / "phantom_02.nii.gz").rename(data / kind / f"{name}.nii.gz")
    (data / "dataset.json").unlink(missing_ok=True)
    argv = [sys.executable, "-m", "tf_liver.verify", data, "-o", tmp_path / "out", "--workers", "2"]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"M?ller" in done.stdout
    assert name in [case["case_id"] for case in read_json(tmp_path / "out", "verification")["cases"]]
