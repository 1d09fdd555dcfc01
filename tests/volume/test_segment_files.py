"""From scan files to label-map files, with stand-ins for the network that show where each voxel went."""

import itertools
import json
import threading

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from small import write_nifti

from tf_liver.data.header import Nifti2Header
from tf_liver.data.write import PROBABILITY_ONE
from tf_liver.volume import inference
from tf_liver.volume.inference import probability_path, segment_files, statistics_path

AXES = [("L", "R"), ("P", "A"), ("I", "S")]
ALL_48 = ["".join(c) for order in itertools.permutations(AXES) for c in itertools.product(*order)]
LIVER_HU = 100


def identity(images):
    """A network that calls 100 HU and more liver."""
    return (images >= LIVER_HU).astype(np.float32)


def turned(angles):
    """Return the rotation by three angles, about x, y and z."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = one @ rotation
    return rotation


def segmented(scan, out, **options):
    (one,) = segment_files(lambda: identity, [scan], [out], **options)
    if one.error:
        raise one.error
    return one


@pytest.mark.parametrize("codes", ALL_48)
def test_every_orientation_finds_its_way_back(tmp_path, codes):
    labels = np.random.default_rng(0).integers(0, 2, (5, 6, 37)).astype(np.int16)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    voxels = apply_orientation((labels * 1100 - 1000).astype(np.int16), turn)
    affine = np.array([[0.7, 0.05, 0, -90], [-0.05, 0.8, 0.1, 40], [0, -0.1, 2.5, 300], [0, 0, 0, 1]])
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, affine @ inv_ornt_aff(turn, labels.shape))
    segmented(scan, tmp_path / "out.nii.gz", probabilities=True)
    source, out = nib.load(scan), nib.load(tmp_path / "out.nii.gz")
    assert out.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(out.dataobj), voxels > 0)
    probability = nib.load(probability_path(tmp_path / "out.nii.gz")).get_fdata()
    np.testing.assert_allclose(probability, voxels > 0, atol=1e-9)
    np.testing.assert_array_equal(out.affine, source.affine)


class Nifti2(nib.Nifti2Image):
    """nibabel refuses to write, and to read again, a half turn that is rounded by 1e-15."""

    header_class = Nifti2Header


@settings(max_examples=60, deadline=None)
@example(
    shape=(1, 1, 1),
    codes="LIP",
    angles=(0.6854871976799068, 0.0, 2.4871938296009645e-14),
    spacing=(1.0, 1.0, 1.0),
    sform=0,
    qform=1,
    units="mm",
    version=Nifti2,
)
@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    codes=st.sampled_from(ALL_48),
    angles=st.tuples(*[st.floats(-0.7, 0.7)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    sform=st.integers(0, 4),
    qform=st.integers(0, 4),
    units=st.sampled_from(["mm", "meter", "unknown"]),
    version=st.sampled_from([nib.Nifti1Image, Nifti2]),
)
def test_any_oblique_grid_comes_back_voxel_for_voxel_and_header_for_header(
    tmp_path_factory, shape, codes, angles, spacing, sform, qform, units, version
):
    folder = tmp_path_factory.mktemp("oblique")
    labels = np.random.default_rng(0).integers(0, 2, shape).astype(np.int16)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.eye(4)
    affine[:3, :3] = turned(angles) @ np.diag(spacing)
    image = version(
        apply_orientation((labels * 1100 - 1000).astype(np.int16), turn), affine @ inv_ornt_aff(turn, shape)
    )
    image.header.set_sform(image.affine, code=sform)
    image.header.set_qform(image.affine, code=qform)
    image.header.set_xyzt_units(units)
    (folder / "scan.nii").write_bytes(image.to_bytes())
    segmented(folder / "scan.nii", folder / "out.nii.gz")
    source, out = version.from_filename(folder / "scan.nii"), version.from_filename(folder / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(out.dataobj), np.asarray(source.dataobj) > 0)
    np.testing.assert_array_equal(out.affine, source.affine)
    kept = ["dim", "pixdim", "sform_code", "qform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"]
    kept += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]
    for field in kept:
        np.testing.assert_array_equal(out.header[field], source.header[field], err_msg=field)


def a_scan(folder, name, value=LIVER_HU):
    voxels = np.full((6, 7, 8), -1000, np.int16)
    voxels[1:3, 1:3, 1:3] = voxels[4, 4, 4] = value
    return write_nifti(folder / name, voxels, np.diag([2.0, 2, 2, 1]))


def test_probabilities_are_written_on_the_same_grid(tmp_path):
    scan = write_nifti(tmp_path / "scan.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([-1.0, 2, 3, 1]))
    list(segment_files(lambda: lambda x: x / 59, [scan], [tmp_path / "o" / "scan.nii.gz"], probabilities=True))
    out = nib.load(tmp_path / "o" / "scan-probability.nii.gz")
    np.testing.assert_allclose(out.get_fdata(), nib.load(scan).get_fdata() / 59, atol=0.51 / PROBABILITY_ONE)
    np.testing.assert_array_equal(out.affine, nib.load(scan).affine)
    label_map = np.asarray(nib.load(tmp_path / "o" / "scan.nii.gz").dataobj)
    np.testing.assert_array_equal(label_map, out.get_fdata() >= 0.5)


def test_the_experiments_postprocessing_is_done_before_measuring(tmp_path):
    scan = a_scan(tmp_path, "scan.nii.gz")
    for kind, voxels in (("none", 9), ("largest", 8)):
        one = segmented(scan, tmp_path / f"{kind}.nii.gz", postprocessing=kind)
        assert np.asarray(nib.load(one.output).dataobj).sum() == voxels
        assert one.statistics["liver_ml"] == pytest.approx(voxels * 0.008)
        assert json.loads(statistics_path(one.output).read_text())["liver_ml"] == one.statistics["liver_ml"]


def test_bad_scans_do_not_stop_the_others(tmp_path):
    """One that cannot be read, one with NaN from the network, one whose place is taken by a folder."""
    names = ["good1.nii.gz", "bad.nii.gz", "nan.nii.gz", "taken.nii.gz", "good2.nii.gz"]
    scans = [a_scan(tmp_path / "in", name, LIVER_HU + 100 * (name == "nan.nii.gz")) for name in names]
    scans[1].write_bytes(scans[1].read_bytes()[:-20])
    outputs = [tmp_path / "out" / name for name in names]
    (outputs[3]).mkdir(parents=True)
    (outputs[3] / "x").touch()

    def sometimes(images):
        return identity(images) if images.max() < 150 else np.full(images.shape, np.nan, np.float32)

    results = list(segment_files(lambda: sometimes, scans, outputs))
    assert [one.scan for one in results] == scans
    assert [one.error is None for one in results] == [True, False, False, False, True]
    assert "damaged gzip stream" in str(results[1].error)
    assert "NaN in slices" in str(results[2].error)
    assert isinstance(results[3].error, OSError)
    files = sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_file())
    assert [f for f in files if f.endswith(".gz")] == ["good1.nii.gz", "good2.nii.gz"]
    assert not [f for f in files if f.startswith(".")]


def test_no_scans_give_nothing():
    assert list(segment_files(lambda: identity, [], [])) == []


def test_reading_and_writing_go_on_beside_the_network(tmp_path, monkeypatch):
    """While scan 1 has the network, scan 0 is written and scan 2 is read, and not more than that."""
    scans = [a_scan(tmp_path, f"{n}.nii") for n in range(5)]
    outputs = [tmp_path / "out" / f"{n}.nii" for n in range(5)]
    read, written = threading.Semaphore(0), threading.Semaphore(0)
    held, most = [0], [0]
    read_scan, finish = inference.read_scan, inference._finish

    def reading(scan):
        held[0] += 1
        most[0] = max(most[0], held[0])
        volume = read_scan(scan)
        read.release()
        return volume

    def finishing(*arguments):
        done = finish(*arguments)
        held[0] -= 1
        written.release()
        return done

    number = itertools.count()

    def predictor(images):
        n = next(number)
        assert read.acquire(timeout=5), "this scan"
        if n < 4:
            assert read.acquire(timeout=5), "the next scan is read meanwhile"
            read.release()
        if n:
            assert written.acquire(timeout=5), "the last scan is written meanwhile"
        return identity(images)

    monkeypatch.setattr(inference, "read_scan", reading)
    monkeypatch.setattr(inference, "_finish", finishing)
    assert [one.error for one in segment_files(lambda: predictor, scans, outputs)] == [None] * 5
    assert most[0] == 2
