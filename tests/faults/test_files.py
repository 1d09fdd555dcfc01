"""Rows 1 to 34 of what users and disks do: damaged files, refused. Each is made for real, and `verify` meets it."""

import gzip
import warnings
from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from damage import (
    AFFINE,
    AIR,
    BONE,
    DIM,
    INTER,
    PIXDIM,
    QUATERN_B,
    SLOPE,
    SROW_X,
    VOX_OFFSET,
    ct_voxels,
    field,
    floats,
    in_stream,
    no_affine,
    retyped,
    run_verify,
    with_extension,
    write_folder,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_liver.data import DataError
from tf_liver.data.nifti import read_grid, read_volume


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


class Fault(NamedTuple):
    """One row of the table of faults; `silent` says that nibabel 5.4.2 gives voxels without a word."""

    row: str
    damage: Callable[[bytes], bytes]
    message: str
    silent: bool = False
    name: str = "bad.nii.gz"


NAN = float("nan")
REFUSED = [
    Fault("1-cut-in-half", lambda b: b[: len(b) // 2], "damaged gzip stream: .*ends before its trailer"),
    Fault("2-no-trailer", lambda b: b[:-8], "damaged gzip stream: .*ends before its trailer", silent=True),
    Fault(
        "3-wrong-crc", lambda b: b[:-8] + bytes([b[-8] ^ 1]) + b[-7:], "damaged gzip stream: .*checksum", silent=True
    ),
    Fault("4-bit-flipped", lambda b: b[:2000] + bytes([b[2000] ^ 16]) + b[2001:], "damaged gzip stream"),
    Fault("9-empty", lambda b: b"", "the file is empty"),
    Fault("10-html", lambda b: b"<!DOCTYPE html><html>404</html>", "not a NIfTI file. Received: first bytes b'<!DOC"),
    Fault(
        "11-short", lambda b: gzip.decompress(b)[:-10], "shorter than its header promises: 5760 bytes", name="bad.nii"
    ),
    Fault("11-short-in-gzip", in_stream(lambda d: d[:-10]), "shorter than its header promises: 5760 .*Received: 5750"),
    Fault("13-huge", field(DIM, "h", 3, 32767, 32767, 32767), "shorter than its header promises: 70362301923326 bytes"),
    Fault("15-dim0-0", field(DIM, "h", 0), r"dim\[0\] must lie in \[1, 7\]. Received: 0$"),
    Fault("15-dim0-9", field(DIM, "h", 9), r"dim\[0\] must lie in \[1, 7\]. Received: 9$"),
    Fault("16-zero", field(DIM + 4, "h", 0), r"every dimension must be at least 1. Received: \[24, 0, 6\]"),
    Fault("16-negative", field(DIM + 2, "h", -24), r"every dimension must be at least 1. Received: \[-24, 20, 6\]"),
    Fault("17-offset-0", field(VOX_OFFSET, "f", 0), r"vox_offset must lie in \[352, \d+\]. Received: 0", silent=True),
    Fault("17-offset-before-extension", with_extension(352), "must not lie inside an extension", silent=True),
    Fault("17-offset-4-in-extension", with_extension(356), "must not lie inside an extension", silent=True),
    Fault("17-offset-16-in-extension", with_extension(368), "extension. Received: vox_offset 368"),
    Fault("18-offset-nan", field(VOX_OFFSET, "f", NAN), "vox_offset must lie in .* Received: nan"),
    Fault("18-offset-1e9", field(VOX_OFFSET, "f", 1e9), "vox_offset must lie in .* Received: 1e[+]09"),
    Fault("18-offset-negative", field(VOX_OFFSET, "f", -100), "vox_offset must lie in .* Received: -100"),
    Fault("18-offset-behind-the-end", field(VOX_OFFSET, "f", 20000), "ends before vox_offset 20000"),
    Fault("20-slope-nan", field(SLOPE, "f", NAN), "scl_slope and scl_inter must be finite. Received: nan", silent=True),
    Fault("20-slope-inf", field(SLOPE, "f", float("inf")), "must be finite. Received: inf and 0", silent=True),
    Fault("21-slope-1e38", field(SLOPE, "f", 1e38), "scaled voxels must fit float32. Received: slope 1e[+]38"),
    Fault("22-inter-nan", field(INTER, "f", NAN), "must be finite. Received: 1 and nan"),
    Fault("23-affine-nan", field(SROW_X, "f", NAN), "the affine must be finite", silent=True),
    Fault("24-affine-singular", field(SROW_X, "f", 0, 0, 0, 0), "the affine must be invertible", silent=True),
    Fault("25-quaternion", no_affine(field(QUATERN_B, "f", 2), code=1), "the quaternion of the qform must be one"),
    Fault(
        "26-pixdim-0", no_affine(field(PIXDIM + 4, "f", 0)), r"pixdim must be positive. Received: \[0.0,", silent=True
    ),
    Fault("27-rgb", retyped(np.int16, code=128), "datatype code 128"),
    Fault("27-unknown", retyped(np.int16, code=9999), "datatype code 9999"),
    Fault("28-complex", retyped(np.complex64), "datatype code 32", silent=True),
    Fault("29-nan", floats(NAN), "voxels must be finite. Received: 1 NaN or inf", silent=True),
    Fault("29-inf", floats(float("-inf")), "voxels must be finite. Received: 1 NaN or inf", silent=True),
    Fault(
        "31-4d", field(DIM, "h", 4, 24, 10, 6, 2), r"must have 3 dimensions .*Received: \[24, 10, 6, 2\]", silent=True
    ),
    Fault("32-2d", field(DIM, "h", 2, 24, 120), r"must have 3 dimensions .*Received: \[24, 120\]", silent=True),
]


@pytest.mark.parametrize("fault", REFUSED, ids=lambda fault: fault.row)
def test_refused_in_one_line_that_names_file_rule_and_value(fault, folder, capsys):
    old, scan = folder / "imagesTr" / "bad.nii.gz", folder / "imagesTr" / fault.name
    old.rename(scan).write_bytes(fault.damage(scan.read_bytes()))
    if fault.silent:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.asarray(nib.load(scan).dataobj).size

    with pytest.raises(DataError, match=f"^{scan}: .*{fault.message}"):
        read_volume(scan)
    code, text, record = run_verify(folder, capsys)
    assert code == 2
    (error,) = record["errors"]
    assert error["case_id"] == "bad"
    assert [line for line in text.splitlines() if line.startswith("error: ")] == [
        f"error: imagesTr/{error['message'].removeprefix(f'{folder}/imagesTr/')}"
    ]
    assert {c["case_id"]: c["hu_range"] for c in record["cases"]} == {"good": [AIR, BONE], "bad": None}


@settings(max_examples=200, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_row_4_a_bit_flipped_anywhere_in_a_gzip_never_changes_a_voxel(tmp_path_factory, where, bit):
    path = tmp_path_factory.mktemp("flip") / "scan.nii.gz"
    data = bytearray(gzip.compress(nib.Nifti1Image(ct_voxels(), AFFINE).to_bytes(), 6))
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        voxels = read_volume(path).voxels
    except DataError:
        return
    np.testing.assert_array_equal(voxels, ct_voxels())


@settings(max_examples=300, deadline=None)
@given(at=st.integers(4, 351), value=st.integers(0, 255), version=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
def test_any_wrong_header_byte_is_refused_or_read_but_never_crashes(tmp_path_factory, at, value, version):
    path = tmp_path_factory.mktemp("byte") / "scan.nii"
    data = bytearray(version(ct_voxels(), AFFINE).to_bytes())
    data[at] = value
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_volume(path).voxels.shape == read_grid(path).voxels.shape
        except DataError:
            return


@pytest.mark.parametrize("kind", ["imagesTr", "labelsTr"])
def test_a_damaged_label_is_as_bad_as_a_damaged_image_and_quick_sees_what_the_header_tells(folder, capsys, kind):
    for name, damage in (("bad", field(SROW_X, "f", NAN)), ("good", lambda b: b[:-8])):
        path = folder / kind / f"{name}.nii.gz"
        path.write_bytes(damage(path.read_bytes()))
    assert {e["case_id"] for e in run_verify(folder, capsys)[2]["errors"]} == {"good", "bad"}
    code, _, record = run_verify(folder, capsys, "--quick")
    assert code == 2
    assert [e["case_id"] for e in record["errors"]] == ["bad"]
