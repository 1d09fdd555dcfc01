"""DICOM series as scanners write them, made with pydicom; the geometry by hand, from the standard's own formula."""

import random
import shutil

import nibabel as nib
import numpy as np
import pytest

from tf_liver.data import DataError, DataWarning
from tf_liver.data.scans import find_scans, name_of_scan, read_scan
from tf_liver.data.write import write_label_map

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid  # noqa: E402

SPACING = (0.8, 0.7)  # between rows, between columns
rng = np.random.default_rng(0)


def one_slice(stored, place, direction=(1, 0, 0, 0, 1, 0), uid="1.2.3", **fields):
    """Return a CT slice with the stored values (rows, columns) uint16; HU = 2 · stored − 1024."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.Modality, one.SeriesInstanceUID, one.SeriesDescription = "CT", uid, f"series {uid}"
    one.ImagePositionPatient = [round(float(v), 4) for v in place]
    one.ImageOrientationPatient, one.PixelSpacing = [float(v) for v in direction], list(SPACING)
    one.RescaleSlope, one.RescaleIntercept, one.SliceThickness = 2, -1024, 5
    one.Rows, one.Columns = stored.shape
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.PixelData = stored.astype("<u2").tobytes()
    for name, value in fields.items():
        setattr(one, name, value)
    return one


def series(folder, step=(0, 0, 2.5), origin=(-100, -80, 50), direction=(1, 0, 0, 0, 1, 0), depth=6, skip=(), **fields):
    """Write a series with shuffled file names; return the stored values (depth, rows, columns)."""
    folder.mkdir(exist_ok=True)
    stored = rng.integers(0, 1000, (depth, 5, 4)).astype(np.uint16)
    names = random.Random(0).sample(range(100), depth)
    for k in range(depth):
        if k not in skip:
            place = np.add(origin, np.multiply(k, step))
            one_slice(stored[k], place, direction, **fields).save_as(
                folder / f"{names[k]}.dcm", enforce_file_format=True
            )
    return stored


def lps_of(image, voxel):
    """Return where a voxel of a NIfTI image lies in DICOM's coordinates."""
    return nib.affines.apply_affine(image.affine, voxel) * (-1, -1, 1)


OBLIQUE = (0.96, 0.28, 0, 0, 0, -1)  # row to the left and back, columns to the feet: a coronal slab


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), OBLIQUE])
@pytest.mark.parametrize("way", [1, -1])
def test_every_pixel_lies_where_the_standard_says(tmp_path, direction, way):
    """PS3.3 C.7.6.2.1.1: position = origin + row direction · Δcolumn · j + column direction · Δrow · i."""
    row, column = np.array(direction[:3], float), np.array(direction[3:], float)
    origin, step = np.array([-100, -80, 50.0]), way * 2.5 * np.cross(row, column)
    stored = series(tmp_path / "ct", step, origin, direction)
    volume = read_scan(tmp_path / "ct")
    assert volume.voxels.dtype == np.int16
    write_label_map(
        tmp_path / "out.nii.gz",
        np.arange(volume.voxels.size, dtype=np.uint8).reshape(volume.voxels.shape),
        volume.header,
    )
    where = nib.Nifti1Image(volume.voxels, volume.affine)
    for k, i, j in ((0, 0, 0), (5, 4, 3), (2, 1, 3)):
        expected = origin + k * step + row * SPACING[1] * j + column * SPACING[0] * i
        places = np.array([lps_of(where, voxel) for voxel in np.ndindex(volume.voxels.shape)])
        (nearest,) = np.flatnonzero(np.linalg.norm(places - expected, axis=1) < 1e-3)
        assert volume.voxels.flat[nearest] == int(stored[k, i, j]) * 2 - 1024
    out = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(out.affine, volume.header.get_best_affine(), atol=1e-5)
    np.testing.assert_allclose(out.get_qform(), out.get_sform(), atol=1e-4)
    assert (int(out.header["sform_code"]), int(out.header["qform_code"])) == (1, 1)
    assert out.header.get_xyzt_units()[0] == "mm"


def test_a_tilted_gantry_is_named_and_its_shear_kept(tmp_path):
    """Slices stay upright while the table moves along z: each is shifted against the last one along its columns."""
    angle = np.radians(12)
    direction = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    series(tmp_path / "ct", step=(0, 0, 5), direction=direction)
    with pytest.warns(DataWarning, match=r"the gantry was tilted by 12\.0 degrees; the grid is sheared"):
        volume = read_scan(tmp_path / "ct")
    assert volume.voxel_ml == pytest.approx(0.7 * 0.8 * 5 * np.cos(angle) / 1000, rel=1e-4)
    assert (int(volume.header["sform_code"]), int(volume.header["qform_code"])) == (1, 0)
    top = lps_of(nib.Nifti1Image(volume.voxels, volume.header.get_best_affine()), (0, 0, 5))
    np.testing.assert_allclose(top, (-100, -80, 50 + 25), atol=1e-3)


def test_two_series_are_refused_and_named(tmp_path):
    series(tmp_path / "ct", uid="1.2.3")
    for path in (tmp_path / "ct").iterdir():
        path.rename(path.with_name("a" + path.name))
    series(tmp_path / "ct", uid="1.2.4", depth=3)
    with pytest.raises(
        DataError, match=r"ct: must hold one series.* 2: .*series 1.2.3 \(1.2.3\): 6 files; .*series 1.2.4"
    ):
        read_scan(tmp_path / "ct")


@pytest.mark.parametrize(
    ("skip", "said"), [((3,), r"missing slices \(1\) .* a gap of 5 mm, not 2.5 mm"), ((2, 3), r"missing slices \(2\)")]
)
def test_a_missing_slice_is_refused_and_its_gap_named(tmp_path, skip, said):
    series(tmp_path / "ct", skip=skip, depth=8)
    with pytest.raises(DataError, match=said) as error:
        read_scan(tmp_path / "ct")
    names = [p.name for p in (tmp_path / "ct").iterdir() if p.name in str(error.value)]
    places = sorted(float(pydicom.dcmread(tmp_path / "ct" / name).ImagePositionPatient[2]) for name in names)
    assert places == [50 + 2.5 * (skip[0] - 1), 50 + 2.5 * (skip[-1] + 1)]


def change(path, **fields):
    one = pydicom.dcmread(path)
    for name, value in fields.items():
        if value is None:
            delattr(one, name)
        else:
            setattr(one, name, value)
    one.save_as(path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: change(p, Modality="MR"), "the modality must be CT. Received: MR"),
        (lambda p: change(p, RescaleSlope=None), "RescaleSlope must be there"),
        (lambda p: change(p, ImagePositionPatient=None), "ImagePositionPatient must be there"),
        (lambda p: change(p, PixelSpacing=[0.8, 0.9]), "PixelSpacing must be that of"),
        (lambda p: change(p, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "ImageOrientationPatient must be that of"),
        (lambda p: change(p, NumberOfFrames=3), "enhanced multi-frame files are not read"),
        (lambda p: change(p, PixelData=b"\0\0"), "pixels cannot be decoded"),
        (lambda p: p.with_name("again.dcm").write_bytes(p.read_bytes()), "two slices in one place between"),
        (lambda p: p.write_bytes(p.read_bytes()[:-20]), "pixels cannot be decoded|damaged DICOM"),
    ],
)
def test_bad_series_are_refused_by_file_and_field(tmp_path, damage, said):
    series(tmp_path / "ct")
    damage(sorted((tmp_path / "ct").iterdir())[2])
    with pytest.raises(DataError, match=said):
        read_scan(tmp_path / "ct")


def test_what_is_no_image_is_passed_over_with_a_warning(tmp_path):
    series(tmp_path / "ct")
    (tmp_path / "ct" / "README.txt").write_text("from the scanner")
    (tmp_path / "ct" / ".DS_Store").write_text("")
    with pytest.warns(DataWarning, match=r"1 files are no DICOM images \(README\.txt\); ignored"):
        assert read_scan(tmp_path / "ct").voxels.shape == (4, 5, 6)


@pytest.mark.parametrize("name", [None, "notes.txt"])
def test_a_folder_without_scans_is_refused(tmp_path, name):
    if name:
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"empty|must hold NIfTI files or the DICOM files of a CT series"):
        read_scan(tmp_path)


def test_fractions_of_hu_become_float32_and_one_slice_is_a_scan(tmp_path):
    stored = series(tmp_path / "ct", depth=1, RescaleSlope=0.5, RescaleIntercept=0)
    volume = read_scan(tmp_path / "ct")
    assert volume.voxels.dtype == np.float32
    assert volume.spacing_mm == pytest.approx((0.7, 0.8, 5))
    assert sorted(volume.voxels.flat) == sorted(stored.flat / np.float32(2))


def test_compressed_pixels_are_read(tmp_path):
    stored = series(tmp_path / "ct")
    plain = read_scan(tmp_path / "ct").voxels
    for path in (tmp_path / "ct").iterdir():
        one = pydicom.dcmread(path)
        one.compress(RLELossless)
        one.save_as(path)
    np.testing.assert_array_equal(read_scan(tmp_path / "ct").voxels, plain)
    assert stored.max() * 2 - 1024 == plain.max()


def test_a_scanners_own_file_is_read(tmp_path):
    """CT_small.dcm, which pydicom ships: one slice of a GE scanner."""
    shutil.copy(pydicom.data.get_testdata_file("CT_small.dcm"), tmp_path / "slice")
    one, volume = pydicom.dcmread(tmp_path / "slice"), read_scan(tmp_path)
    hu = one.pixel_array.astype(int) * int(one.RescaleSlope) + int(one.RescaleIntercept)
    stored = nib.orientations.apply_orientation(hu.T[..., None], nib.io_orientation(volume.header.get_best_affine()))
    np.testing.assert_array_equal(volume.voxels, stored)
    assert volume.spacing_mm == pytest.approx((*[float(mm) for mm in one.PixelSpacing], float(one.SliceThickness)))


def test_folders_stand_for_their_scans(tmp_path):
    series(tmp_path / "1.2.840")
    niftis = tmp_path / "niftis"
    niftis.mkdir()
    for name in ("b.nii", "a.nii.gz", "._a.nii.gz", "notes.txt"):
        (niftis / name).touch()
    paths = [niftis, tmp_path / "1.2.840", tmp_path / "gone.nii"]
    found = find_scans(paths)
    assert found == [niftis / "a.nii.gz", niftis / "b.nii", *paths[1:]]
    assert [name_of_scan(scan) for scan in found] == ["a", "b", "1.2.840", "gone"]


RAW = [
    *[("RescaleSlope", "1\\2"), ("RescaleSlope", "x"), ("RescaleSlope", "1e300"), ("RescaleSlope", "nan")],
    *[("RescaleIntercept", "1\\2"), ("RescaleIntercept", "-1e300"), ("NumberOfFrames", "1\\2")],
    *[("NumberOfFrames", "x"), ("PixelSpacing", "0.7"), ("PixelSpacing", "0.7\\0"), ("PixelSpacing", "-1\\1")],
    *[("PixelSpacing", "inf\\1"), ("ImagePositionPatient", "nan\\0\\0"), ("ImagePositionPatient", "0\\0")],
    *[("ImagePositionPatient", "1e300\\0\\0"), ("ImageOrientationPatient", "1\\0\\0\\0\\1")],
    *[("ImageOrientationPatient", "nan\\0\\0\\0\\1\\0"), ("SliceThickness", "nan"), ("SliceThickness", "1\\2")],
]


@pytest.mark.parametrize(("field", "text"), RAW)
@pytest.mark.parametrize("depth", [1, 3])
def test_row_83_values_that_are_no_finite_numbers_are_refused_by_name(tmp_path, field, text, depth):
    """As bytes of a file have them: pydicom itself would not write them."""
    if field == "SliceThickness" and depth == 3:
        assert read_scan(with_raw(tmp_path, field, text, depth)).voxels.shape[2] == 3, "positions tell the step"
        return
    folder = with_raw(tmp_path, field, text, depth)
    with pytest.raises(DataError) as refused:
        read_scan(folder)
    assert str(folder) in str(refused.value)
    if text != "1e300\\0\\0":  # a float32 affine cannot hold it: that check is NIfTI's
        assert field in str(refused.value)


def with_raw(tmp_path, field, text, depth):
    """Write a series in which every slice has these bytes as the value of a field."""
    tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(field))
    value = text.encode() + b" " * (len(text) % 2)
    raw = pydicom.dataelem.RawDataElement(tag, pydicom.datadict.dictionary_VR(tag), len(value), value, 0, False, True)
    folder = tmp_path / "ct"
    folder.mkdir()
    for k in range(depth):
        one = one_slice(np.full((5, 4), k + 1, np.uint16), (0, 0, 2.5 * k))
        one._dict[tag] = raw
        one.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder
