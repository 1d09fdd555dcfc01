"""What `predict` may be given: trees of patients, studies and series, and names that repeat in them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tf_liver.data import DataError
from tf_liver.data.scans import find_scans
from tf_liver.files import write_atomic
from tf_liver.predict import label_map_paths, list_scans

DICOM = bytes(128) + b"DICM"


def tree(top: Path) -> Path:
    """Two patients with a DICOM series each of one name, one with a NIfTI file, and what is no scan."""
    for name in ("p1/study/2.1/a", "p1/study/2.1/b", "p2/study/2.1/a", "p1/study/notes/.hidden"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(DICOM)
    (top / "p3").mkdir()
    for name in ("p3/ct.nii.gz", "p3/._ct.nii.gz", "p1/report.pdf"):
        (top / name).write_bytes(b"x")
    return top


def test_scans_are_found_at_any_depth(tmp_path):
    top = tree(tmp_path / "scans")
    expected = [top / "p1/study/2.1", top / "p2/study/2.1", top / "p3/ct.nii.gz"]
    assert find_scans([top]) == expected
    assert find_scans([top / "p1", top]) == expected, "each once"
    outputs = label_map_paths(expected, Path("out"))
    assert [str(p) for p in outputs] == ["out/p1/study/2.1.nii.gz", "out/p2/study/2.1.nii.gz", "out/ct.nii.gz"]


def test_links_are_followed_and_a_circle_of_them_ends(tmp_path):
    top = tree(tmp_path / "scans")
    (top / "p3" / "again").symlink_to(top)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "p2").symlink_to(top / "p2")
    assert len(find_scans([top])) == 3
    assert find_scans([tmp_path / "linked"]) == [tmp_path / "linked/p2/study/2.1"]


def test_the_results_of_an_earlier_call_are_no_scans(tmp_path):
    top = tree(tmp_path / "scans")
    (top / "predictions" / "p1").mkdir(parents=True)
    (top / "predictions" / "p1" / "x.nii.gz").touch()
    assert len(find_scans([top])) == 4
    assert len(find_scans([top], top / "predictions")) == 3


def test_a_pipe_in_a_tree_is_never_opened(tmp_path):
    top = tree(tmp_path / "scans")
    (top / "pipes").mkdir()
    os.mkfifo(top / "pipes" / "image")
    os.mkfifo(top / "p3" / "pipe.nii.gz")
    assert find_scans([top])[2:] == [top / "p3/ct.nii.gz", top / "p3/pipe.nii.gz"]


def test_what_was_found_below_is_listed(tmp_path, capsys):
    top = tree(tmp_path / "scans")
    list_scans([top / "p3"], find_scans([top / "p3"]))
    assert capsys.readouterr().out == ""
    list_scans([top], find_scans([top]))
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "3 scans found:"
    assert others[1:] == [f"  {top}/p2/study/2.1 (DICOM series)", f"  {top}/p3/ct.nii.gz"]


def test_a_tree_without_scans_is_refused_in_one_line_before_tensorflow(tmp_path, trained):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"a: must hold NIfTI files or DICOM series, .*Received: none, in 2 folders$"):
        find_scans([tmp_path / "a"])
    argv = [sys.executable, "-X", "importtime", "-m", "tf_liver.predict", tmp_path / "a", "--run", trained]
    begin = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert len(said) == 1, said
    assert "in 2 folders" in said[0]
    assert "tensorflow" not in done.stderr, time.monotonic() - begin
    assert not (tmp_path / "predictions").exists()


def test_an_empty_folder_among_scans_is_that_ones_failure(tmp_path):
    top = tree(tmp_path / "scans")
    (tmp_path / "empty").mkdir()
    assert find_scans([tmp_path / "empty", top / "p3"]) == [tmp_path / "empty", top / "p3/ct.nii.gz"]


def test_a_name_in_other_bytes_is_written_with_escapes_that_json_reads_back(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    write_atomic(tmp_path / "x.json", json.dumps({"case": name}, ensure_ascii=False))
    assert (tmp_path / "x.json").read_bytes() == rb'{"case": "M\udcfcller"}'
    assert json.loads((tmp_path / "x.json").read_text()) == {"case": name}
