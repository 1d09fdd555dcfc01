"""Where the voxels lie: units, form codes, two forms, none, and what is said of each."""

import math
import os
import socket
import struct
import subprocess
import sys
import warnings

import nibabel as nib
import numpy as np
import pytest

from tf_liver.data import DataError, GridWarning
from tf_liver.data.nifti import check_same_grid, iterate_slices, read_grid, read_label, read_volume
from tf_liver.data.verification import placeholder
from tf_liver.data.write import write_label_map

pytestmark = pytest.mark.filterwarnings("ignore::tf_liver.data.GridWarning")
AFFINE = np.array([[-0.8, 0, 0, 90], [0, 0.7, 0, -80], [0, 0, 2.5, -300], [0, 0, 0, 1]])
VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) % 2


def write(path, unit="mm", sform=(AFFINE, 1), qform=(AFFINE, 1), factor=1.0):
    header = nib.Nifti1Header()
    header.set_data_shape(VOXELS.shape)
    header.set_data_dtype(np.int16)
    header.set_xyzt_units(unit)
    scale = np.diag([factor, factor, factor, 1])
    header.set_qform(scale @ qform[0], qform[1])
    header.set_sform(scale @ sform[0], sform[1])
    nib.save(nib.Nifti1Image(VOXELS, None, header), path)
    return path


def patch(path, at, kind, *values):
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", data, at, *values)
    path.write_bytes(data)
    return path


def said(path, read=read_volume):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        volume = read(path)
    grid = [str(w.message) for w in heard if issubclass(w.category, GridWarning)]
    assert grid == [f"{path}: {text}" for text in volume.doubts]
    return volume, list(volume.doubts)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("unknown", 1), ("meter", 1e-3), ("micron", 1e3)])
@pytest.mark.parametrize("forms", [(1, 1), (0, 1), (1, 0)])
def test_units_are_honoured_when_a_scan_is_read(tmp_path, unit, factor, forms):
    path = write(tmp_path / "x.nii", unit, (AFFINE, forms[0]), (AFFINE, forms[1]), factor)
    for read in (read_volume, read_label, read_grid):
        volume, doubts = said(path, read)
        assert doubts == []
        assert volume.spacing_mm == pytest.approx((0.8, 0.7, 2.5), rel=1e-5)
        assert volume.voxel_ml == pytest.approx(0.8 * 0.7 * 2.5 / 1000, rel=1e-5)
        assert volume.affine[:3, 3] == pytest.approx([90 - 3 * 0.8, -80, -300], abs=1e-3)
    check_same_grid(volume, read_label(write(tmp_path / "y.nii")), path)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
def test_a_label_map_keeps_its_scans_units(tmp_path, unit, factor):
    """It must lie on its scan in every reader, those that do not look at units included."""
    scan = write(tmp_path / "x.nii", unit, factor=factor)
    volume = read_volume(scan)
    write_label_map(tmp_path / "map.nii.gz", (volume.voxels > 0).astype(np.uint8), volume.header)
    out, native = nib.load(tmp_path / "map.nii.gz"), nib.load(scan)
    assert out.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(out.affine, native.affine)
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), np.asanyarray(native.dataobj))
    check_same_grid(volume, read_label(tmp_path / "map.nii.gz"), scan)


def test_an_unknown_unit_is_taken_as_mm_and_said(tmp_path):
    volume, doubts = said(patch(write(tmp_path / "x.nii"), 123, "B", 5))
    assert doubts == ["xyzt_units must be metres, mm or microns. Received: code 5; taken as mm"]
    assert volume.spacing_mm == pytest.approx((0.8, 0.7, 2.5), rel=1e-5)


OTHER = np.diag([0.8, 0.7, 2.5, 1.0])


@pytest.mark.parametrize("code", [-1, 6, 255, -32768, 32767])
@pytest.mark.parametrize(("at", "name"), [(252, "qform_code"), (254, "sform_code")])
def test_form_codes_beyond_the_standard_are_no_forms_as_in_nibabel(tmp_path, code, at, name):
    path = patch(write(tmp_path / "x.nii", sform=(AFFINE, 1), qform=(OTHER, 1)), at, "h", code)
    volume, doubts = said(path)
    but = ", as in nibabel; SimpleITK may use it" if code > 0 else ""
    assert doubts == [f"{name} must lie in [0, 5]. Received: {code}; that orientation is not used{but}"]
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(volume.voxels, np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)
    slices = dict(iterate_slices(path))
    assert all(np.array_equal(slices[k], volume.slices[k]) for k in range(6))


@pytest.mark.parametrize("codes", [(6, 1), (1, 6), (-1, 1), (6, 0), (255, 255)])
@pytest.mark.parametrize("qfac", [-1, 0, 1, 3])
def test_a_label_map_keeps_what_readers_differ_about(tmp_path, codes, qfac):
    """SimpleITK 2.5.7 uses forms of codes above 5: a map of code 0 would lie elsewhere than its scan there."""
    scan = patch(write(tmp_path / "x.nii", sform=(AFFINE, 1), qform=(OTHER, 1)), 252, "2h", *codes)
    volume, _ = said(patch(scan, 76, "f", qfac))
    write_label_map(tmp_path / "map.nii", (volume.voxels > 0).astype(np.uint8), volume.header)
    for first, last in ((76, 92), (123, 124), (252, 328)):  # pixdim, xyzt_units, codes and forms
        assert (tmp_path / "map.nii").read_bytes()[first:last] == scan.read_bytes()[first:last]
    out, native = nib.load(tmp_path / "map.nii"), nib.load(scan)
    np.testing.assert_array_equal(out.affine, native.affine)
    np.testing.assert_array_equal(np.asanyarray(out.dataobj), np.asanyarray(native.dataobj) > 0)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3)])
def test_a_placeholder_is_one_in_any_unit(tmp_path, unit, factor):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([factor, factor, factor, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "x.nii")
    assert placeholder(read_volume(tmp_path / "x.nii")) == "identity affine with 1 mm spacing"


def test_no_form_at_all_is_said(tmp_path):
    _, doubts = said(write(tmp_path / "x.nii", sform=(AFFINE, 0), qform=(AFFINE, 0)))
    assert len(doubts) == 1
    assert doubts[0].startswith("no orientation is set (qform_code and sform_code are 0): nibabel and SimpleITK mirror")


@pytest.mark.parametrize(("code", "who"), [(1, ""), (2, "; SimpleITK takes the qform")])
def test_two_forms_that_differ_are_said_with_the_one_that_is_used(tmp_path, code, who):
    path = write(tmp_path / "x.nii", sform=(AFFINE, code), qform=(OTHER, 1))
    volume, doubts = said(path)
    corners = np.array(np.meshgrid([0, 3], [0, 4], [0, 5])).reshape(3, -1)
    apart = np.linalg.norm((AFFINE - OTHER)[:3, :3] @ corners + (AFFINE - OTHER)[:3, 3:], axis=0).max()
    assert doubts == [
        f"sform and qform put a corner {apart:.3g} mm apart; the sform gives the orientation, as in nibabel{who}"
    ]
    np.testing.assert_allclose(volume.affine, nib.as_closest_canonical(nib.load(path)).affine, atol=1e-5)


@pytest.mark.parametrize(("apart", "words"), [(0.5, 0), (2.0, 1)])
@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1e-3)])
def test_forms_closer_than_a_millimetre_are_one(tmp_path, apart, words, unit, factor):
    moved = AFFINE + np.array([[0, 0, 0, apart], [0] * 4, [0] * 4, [0] * 4])
    assert len(said(write(tmp_path / "x.nii", unit, qform=(moved, 1), factor=factor))[1]) == words


@pytest.mark.parametrize(("qfac", "words"), [(0.0, 0), (3.0, 1), (math.nan, 1), (-1.0, 0)])
def test_qfac_is_what_nibabel_makes_of_it(tmp_path, qfac, words):
    path = patch(write(tmp_path / "x.nii", sform=(AFFINE, 0), qform=(OTHER, 1)), 76, "f", qfac)
    volume, doubts = said(path)
    assert len(doubts) == words
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(volume.voxels, np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)


def test_a_half_turn_in_nifti_2_is_not_rounded(tmp_path):
    """A wider tolerance for quaternions, asked first, turned such a valid file by a twentieth of a degree."""
    angle = np.pi - 5e-4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn
    header = nib.Nifti2Header()
    header.set_data_shape((40, 40, 4))
    header.set_data_dtype(np.int16)
    header.set_qform(affine, 1)
    nib.save(nib.Nifti2Image(np.zeros((40, 40, 4), np.int16), None, header), tmp_path / "x.nii")
    expected = nib.as_closest_canonical(nib.load(tmp_path / "x.nii")).affine
    np.testing.assert_allclose(read_volume(tmp_path / "x.nii").affine, expected, atol=1e-9)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.nii"))
    for name, kind in (("pipe.nii.gz", "a named pipe"), ("folder.nii.gz", "a folder"), ("socket.nii", "a socket")):
        for read in (read_volume, read_label, read_grid, lambda path: list(iterate_slices(path))):
            with pytest.raises(DataError, match=f"{name}: a scan must be a file. Received: {kind}"):
                read(tmp_path / name)
    server.close()


@pytest.mark.parametrize("command", ["verify", "prepare"])
def test_a_pipe_among_scans_ends_no_command_in_waiting(tmp_path, command):
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        write(tmp_path / "data" / kind / "a.nii")
    (tmp_path / "data" / "imagesTr" / "a.nii").unlink()
    os.mkfifo(tmp_path / "data" / "imagesTr" / "a.nii")
    where = "--output" if command == "verify" else "--prepared"
    line = [sys.executable, "-m", f"tf_liver.{command}", str(tmp_path / "data"), where, str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "a scan must be a file. Received: a named pipe" in done.stdout + done.stderr
