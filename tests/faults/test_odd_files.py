"""Rows 5 to 8, 12 to 14, 19, 21, 30, 33, 34: odd files that are read right, and hostile ones that cost nothing."""

import gzip
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from io import FileIO

import nibabel as nib
import numpy as np
import pytest
from damage import AFFINE, DIM, SHAPE, SLOPE, ct_voxels, field, in_stream, run_verify, write_folder
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from small import write_nifti

from tf_liver.data import DataError, DataWarning
from tf_liver.data.build import build_case
from tf_liver.data.cases import find_cases
from tf_liver.data.gunzip import GunzipReader
from tf_liver.data.nifti import MAX_EXTRA_BYTES, read_volume
from tf_liver.data.store import images_path

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def members(packed, size, between=b""):
    """Store the same bytes as many gzip members of `size` bytes, an empty one among them."""
    data = gzip.decompress(packed)
    parts = [gzip.compress(data[i : i + size], 1) for i in range(0, len(data), size)]
    return between.join([parts[0], gzip.compress(b""), *parts[1:]])


def big_endian(packed, version=nib.Nifti1Image):
    header = version.header_class(endianness=">")
    header.set_data_dtype(">i2")
    data = version(np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(packed)).dataobj), AFFINE, header).to_bytes()
    assert data[:2] == b"\0\0"
    return gzip.compress(data, 1)


def permuted(packed):
    """Store the same scan along Posterior, Inferior, Left."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(packed))
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("PIL"))
    voxels = apply_orientation(np.asarray(image.dataobj), turn)
    return gzip.compress(nib.Nifti1Image(voxels, image.affine @ inv_ornt_aff(turn, image.shape)).to_bytes(), 1)


def scaled(packed):
    """Store (HU + 1024) / 2 with slope 2 and intercept -1024; HU here are even."""
    voxels = (np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(packed)).dataobj) + 1024) // 2
    data = bytearray(nib.Nifti1Image(voxels.astype(np.uint16), AFFINE).to_bytes())
    struct.pack_into("<2f", data, SLOPE, 2, -1024)
    return gzip.compress(data, 1)


ACCEPTED = [
    ("5-garbage", lambda b: b + b"garbage!" * 4, "garbage after the gzip stream; ignored"),
    ("5-bytes-after-the-voxels", in_stream(lambda d: d + b"x" * 9), "9 bytes after the last voxel; ignored"),
    ("5-zero-padding-is-no-garbage", lambda b: b + bytes(9000), None),
    ("6-two-members", lambda b: members(b, 4000), None),
    ("6-members-of-50-bytes", lambda b: members(b, 50), None),
    ("6-zeros-between-members", lambda b: members(b, 1500, bytes(300_000)), None),
    ("7-plain-named-gz", gzip.decompress, None),
    ("8-gzip-named-nii", lambda b: b, None),
    ("19-slope-0", field(SLOPE, "f", 0, 7), None),
    ("19-slope-0-inter-nan", field(SLOPE, "f", 0, float("nan")), None),
    ("21-slope-2", scaled, None),
    ("30-4d-of-1", field(DIM, "h", 4, *SHAPE, 1), None),
    ("33-big-endian", big_endian, None),
    ("33-big-endian-nifti-2", lambda b: big_endian(b, nib.Nifti2Image), None),
    ("34-permuted", permuted, None),
]


@pytest.mark.parametrize(("row", "change", "warning"), ACCEPTED, ids=[row for row, *_ in ACCEPTED])
def test_odd_files_hold_the_same_values(folder, capsys, row, change, warning):
    scan = folder / "imagesTr" / "bad.nii.gz"
    write_nifti(scan, ct_voxels() // 2 * 2, AFFINE)
    changed = change(scan.read_bytes())
    if row.startswith("8"):
        scan.unlink()
        scan = scan.with_name("bad.nii")
    scan.write_bytes(changed)

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        volume = read_volume(scan)
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, ct_voxels() // 2 * 2)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert [str(w.message) for w in heard] == ([f"{scan}: {warning}"] if warning else [])
    code, text, record = run_verify(folder, capsys)
    assert code == 0
    assert len(record["warnings"]) == bool(warning)
    assert not warning or f"warning: imagesTr/{scan.name}: {warning}" in text
    assert run_verify(folder, capsys, "--strict")[0] == bool(warning)


def test_row_6_many_members_need_no_more_memory_than_one(tmp_path):
    """Blocked gzip (bgzip, 64 KB a member): what lies ahead must not pile up, nor be copied for each member."""
    path = tmp_path / "scan.gz"
    data = np.random.default_rng(0).bytes(8 * MIB)
    path.write_bytes(b"".join(gzip.compress(data[i : i + 65280], 1) for i in range(0, len(data), 65280)))
    crc, buffer = 0, bytearray(65536)
    tracemalloc.start()
    with GunzipReader(FileIO(path)) as stream:
        while got := stream.readinto(buffer):
            crc = zlib.crc32(buffer[:got], crc)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert crc == zlib.crc32(data)
    assert peak < 2 * MIB


def read_in_child(path):
    """Read a scan in a process of its own; return what it said, and by how much its memory grew at most."""
    code = """if True:
        import resource, sys, warnings
        from pathlib import Path
        from tf_liver.data.nifti import read_volume
        warnings.simplefilter("ignore")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            said = read_volume(Path(sys.argv[1])).voxels.shape
        except ValueError as error:
            said = error
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, said)"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=20, check=True)
    kib, said = done.stdout.split(maxsplit=1)
    return said.strip(), int(kib) * 1024


def bomb(packed):
    """Let 3 GB of zeros follow small dims: 3 MB on disk."""
    zeros = gzip.compress(bytes(64 * MIB), 9)
    assert len(zeros) < 64 * MIB / 1000
    return packed + zeros * 48


def test_row_12_a_bomb_behind_small_dims_is_not_inflated(folder, capsys, monkeypatch):
    scan = folder / "imagesTr" / "bad.nii.gz"
    scan.write_bytes(bomb(scan.read_bytes()))
    inflated, original = [], GunzipReader._some

    def counting(self, size):
        data = original(self, size)
        inflated.append(len(data))
        return data

    monkeypatch.setattr(GunzipReader, "_some", counting)
    with pytest.warns(DataWarning, match="over 1.* bytes after the last voxel; ignored"):
        assert read_volume(scan).voxels.shape == SHAPE
    assert 0 < sum(inflated) <= 352 + 2 * np.prod(SHAPE) + MAX_EXTRA_BYTES + 65536
    assert read_in_child(scan) == (str(SHAPE), pytest.approx(0, abs=16 * MIB))
    assert run_verify(folder, capsys)[0] == 0


def test_row_13_huge_dims_are_refused_before_allocating(folder):
    scan = folder / "imagesTr" / "bad.nii.gz"
    scan.write_bytes(field(DIM, "h", 3, 32767, 32767, 32767)(scan.read_bytes()))
    said, grown = read_in_child(scan)
    assert "shorter than its header promises: 70362301923326 bytes" in said
    assert grown < 4 * MIB


def test_row_14_an_endless_file_name_in_the_gzip_header_is_read_in_bounds(folder, capsys):
    scan = folder / "imagesTr" / "bad.nii.gz"
    file_name_flag = 8  # RFC 1952: the name follows, up to a zero byte
    scan.write_bytes(bytes([0x1F, 0x8B, 8, file_name_flag, 0, 0, 0, 0, 0, 3]) + b"a" * 64 * MIB)
    said, grown = read_in_child(scan)
    assert "damaged gzip stream: the stream ends before its trailer" in said
    assert grown < 16 * MIB
    with pytest.raises(DataError):
        read_volume(scan)
    assert run_verify(folder, capsys)[0] == 2


@pytest.mark.parametrize("change", [scaled, big_endian, permuted])
def test_rows_21_33_34_hold_on_the_prepared_path_too(folder, tmp_path, change):
    scan = folder / "imagesTr" / "bad.nii.gz"
    write_nifti(scan, ct_voxels() // 2 * 2, AFFINE)
    scan.write_bytes(change(scan.read_bytes()))
    case = find_cases(folder)[0]
    assert case.image == scan
    (tmp_path / "store").mkdir()
    build_case(case, tmp_path / "store")
    stored = np.load(images_path(tmp_path / "store", "bad"))
    np.testing.assert_array_equal(stored, (ct_voxels() // 2 * 2).transpose(2, 1, 0))
