import gzip
import hashlib
import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from small import write_nifti

from tf_liver.data import DataError, DataWarning
from tf_liver.data.nifti import canonical, check_same_grid, iterate_slices, read_label, read_volume
from tf_liver.data.write import as_stored_probability, write_label_map, write_probability_map

AXES = [("L", "R"), ("P", "A"), ("I", "S")]
ALL_48 = ["".join(c) for order in itertools.permutations(AXES) for c in itertools.product(*order)]
rng = np.random.default_rng(0)


def oblique(tilt: float) -> np.ndarray:
    """An affine with unequal spacing, turned by `tilt` radians about two axes, with an origin."""
    c, s = np.cos(tilt), np.sin(tilt)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.9, 2.5])
    affine[:3, 3] = [-120, 33, 410]
    return affine


def stored(voxels: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels at the same places in mm, stored along other axes."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return apply_orientation(voxels, turn), affine @ inv_ornt_aff(turn, voxels.shape)


@pytest.mark.parametrize("codes", ALL_48)
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_all_orientations_read_alike_and_find_their_way_back(tmp_path, codes, tilt):
    labels = rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    voxels, affine = stored(labels, oblique(tilt), codes)
    path = write_nifti(tmp_path / "scan.nii.gz", voxels, affine)
    volume = read_label(path)
    np.testing.assert_array_equal(volume.voxels, labels)
    np.testing.assert_allclose(volume.affine, oblique(tilt), atol=1e-4)
    np.testing.assert_allclose(volume.spacing_mm, (0.7, 0.9, 2.5), rtol=1e-5)
    singly = {z: one.copy() for z, one in iterate_slices(path)}
    np.testing.assert_array_equal([singly[z] for z in range(6)], volume.slices)
    write_label_map(tmp_path / "out.nii.gz", volume.voxels, volume.header)
    out = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(out.dataobj), voxels)
    np.testing.assert_array_equal(out.affine, nib.load(path).affine)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])  # slice by slice, and as a whole
@pytest.mark.parametrize("behind", [b"", b"garbage" * 300_000])
@pytest.mark.filterwarnings("ignore::tf_liver.data.DataWarning")
def test_the_digest_is_of_the_whole_file(tmp_path, name, dtype, behind):
    path = write_nifti(tmp_path / name, rng.integers(-99, 99, (40, 50, 60)).astype(dtype), oblique(0.1))
    path.write_bytes(path.read_bytes() + behind)
    digest = hashlib.sha256()
    read = np.array([one for _, one in iterate_slices(path, digest)])
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(read, read_volume(path).slices)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    codes=st.sampled_from(ALL_48),
    entries=st.lists(st.floats(-3, 3), min_size=9, max_size=9),
)
def test_any_invertible_affine_comes_back_exactly(tmp_path_factory, shape, codes, entries):
    affine = np.eye(4)
    affine[:3, :3] = np.array(entries).reshape(3, 3) + 4 * np.eye(3)
    voxels, native = stored(rng.integers(0, 3, shape).astype(np.uint8), affine, codes)
    folder = tmp_path_factory.mktemp("affine")
    path = write_nifti(folder / "scan.nii", voxels, native)
    try:
        volume = read_label(path)
    except DataError as error:
        if "invertible" not in str(error):
            raise
        return
    # The centre of each canonical voxel lies where the stored one did.
    write_label_map(folder / "out.nii", volume.voxels, volume.header)
    out = nib.load(folder / "out.nii")
    np.testing.assert_array_equal(np.asarray(out.dataobj), voxels)
    np.testing.assert_array_equal(out.affine, nib.load(path).affine)
    assert volume.voxel_ml == pytest.approx(abs(np.linalg.det(native[:3, :3])) / 1000, rel=1e-4)


def test_slices_are_height_by_width(tmp_path):
    voxels = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    volume = read_volume(write_nifti(tmp_path / "scan.nii", voxels, np.diag([2, 3, 4, 1])))
    assert volume.slices.shape == (4, 3, 2)
    np.testing.assert_array_equal(volume.slices[1], voxels[:, :, 1].T)


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "expected"),
    [
        (np.int16, 1, 0, np.int16),
        (np.int16, 0, 7, np.int16),  # slope 0 is unscaled, the standard says
        (np.int16, 2, -1024, np.int16),
        (np.uint16, 1, -1024, np.int16),
        (np.int32, 1, 0, np.int16),
        (">i2", 1, 0, np.int16),
        (np.uint8, 0.5, 0, np.float32),
        (np.float32, 1, 0, np.float32),
        (np.float64, 2, -10, np.float32),
    ],
)
def test_scaling_is_applied_once_and_equals_nibabel(tmp_path, dtype, slope, inter, expected):
    voxels = rng.integers(0, 200, (3, 4, 5)).astype(dtype)
    path = write_nifti(tmp_path / "scan.nii.gz", voxels, slope=slope, inter=inter)
    volume = read_volume(path)
    assert volume.voxels.dtype == expected
    np.testing.assert_allclose(volume.voxels, nib.load(path).get_fdata(), rtol=1e-6)


def test_values_beyond_int16_become_float32(tmp_path):
    volume = read_volume(write_nifti(tmp_path / "scan.nii", np.full((2, 2, 2), 70000, np.int32)))
    assert volume.voxels.dtype == np.float32
    assert (volume.voxels == 70000).all()


@pytest.mark.parametrize("value", [3, 255, -1, 1.5])
def test_other_label_values_are_refused(tmp_path, value):
    voxels = np.zeros((2, 2, 2), np.float32)
    voxels[0, 0, 0] = value
    with pytest.raises(DataError, match=rf"label\.nii: label values must be 0, 1, 2. Received: {value:g}"):
        read_label(write_nifti(tmp_path / "label.nii", voxels))


def test_grids_must_agree(tmp_path):
    image = read_volume(write_nifti(tmp_path / "i.nii", np.zeros((4, 4, 4), np.int16)))
    for affine, shape, message in (
        (np.eye(4), (4, 4, 5), "one shape"),
        (np.diag([1, 1, 1.5, 1]), (4, 4, 4), "one affine .* Received: corners 1.5 mm apart"),
    ):
        label = read_label(write_nifti(tmp_path / "l.nii", np.zeros(shape, np.uint8), affine))
        with pytest.raises(DataError, match=message):
            check_same_grid(image, label, tmp_path / "l.nii")
    near = np.eye(4)
    near[0, 3] = 0.05
    label = read_label(write_nifti(tmp_path / "l.nii", np.zeros((4, 4, 4), np.uint8), near))
    with pytest.warns(DataWarning, match=r"0\.05 mm apart"):
        check_same_grid(image, label, tmp_path / "l.nii")


def noise_file(tmp_path):
    return write_nifti(tmp_path / "scan.nii.gz", rng.integers(0, 2**15, (32, 32, 8)).astype(np.int16))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[: len(b) // 2], "damaged gzip stream|shorter than its header"),
        (lambda b: b[:-8], "damaged gzip stream"),
        (lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "checksum"),
        (lambda b: b"", "the file is empty"),
        (lambda b: b"<!DOCTYPE html><html>", "not a NIfTI file"),
        (lambda b: gzip.decompress(b)[:5000], "shorter than its header promises"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, damage, message):
    path = noise_file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"scan\.nii\.gz: .*({message})"):
        read_volume(path)


def test_garbage_after_the_stream_is_a_warning(tmp_path):
    path = noise_file(tmp_path)
    expected = read_volume(path).voxels
    path.write_bytes(path.read_bytes() + b"garbage!" * 4)
    with pytest.warns(DataWarning, match="after the gzip stream"):
        np.testing.assert_array_equal(read_volume(path).voxels, expected)


def test_real_scans_equal_nibabel(real_data):
    for path in sorted(real_data.glob("*/imagesTr/*.nii.gz"))[:2] + sorted(real_data.glob("other/*image.nii.gz")):
        reference = nib.as_closest_canonical(nib.load(path))
        volume = read_volume(path)
        assert volume.voxels.dtype == np.int16
        np.testing.assert_array_equal(volume.voxels, np.asarray(reference.dataobj))
        np.testing.assert_array_equal(volume.affine, reference.affine)


@pytest.mark.parametrize("version", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_what_is_written_keeps_the_header_and_reads_alike_elsewhere(tmp_path, version, endianness):
    """nibabel reads back both kinds of maps; codes, units and description are the scan's, whatever its byte order."""
    labels = rng.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    header = version(endianness=endianness)
    header.set_data_shape(labels.shape)
    header.set_sform(oblique(0.3), code=4)
    header.set_qform(oblique(0.3), code=2)
    header.set_xyzt_units("mm", "msec")
    header["descrip"], header["vox_offset"] = b"from elsewhere", 4096  # its extensions are not written
    probability = rng.random(labels.shape).astype(np.float32)
    turned = canonical(labels, header).voxels
    write_label_map(tmp_path / "l.nii.gz", turned, header)
    write_label_map(tmp_path / "l.nii", turned, header)
    write_probability_map(tmp_path / "p.nii.gz", canonical(as_stored_probability(probability), header).voxels, header)
    for name, expected, apart in (("l.nii.gz", labels, 0), ("l.nii", labels, 0), ("p.nii.gz", probability, 8e-6)):
        out = nib.load(tmp_path / name)
        np.testing.assert_allclose(out.get_fdata(), expected, atol=apart, rtol=0)
        np.testing.assert_allclose(out.affine, header.get_best_affine(), atol=1e-6)
        assert (int(out.header["sform_code"]), int(out.header["qform_code"])) == (4, 2)
        assert out.header.get_xyzt_units() == ("mm", "msec")
        assert out.header["descrip"].item() == b"from elsewhere"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["l.nii", "l.nii.gz", "p.nii.gz"]


def test_stored_probabilities_keep_their_side_of_a_half():
    stored = as_stored_probability(np.array([0, 0.4999, 0.5, 1], np.float32))
    assert (stored / 65535 >= 0.5).tolist() == [False, False, True, True]
    assert stored[[0, 3]].tolist() == [0, 65535]
