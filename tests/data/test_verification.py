from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from small import write_nifti

from tf_liver.data import DataError
from tf_liver.data.cases import Case
from tf_liver.data.fingerprint import PERCENTILES, fingerprint, suggest_window
from tf_liver.data.verification import CaseFacts, check_case, histogram, percentile, verify_folder

AFFINE = np.array([[0.5, 0, 0, -40], [0, 2, 0, 30], [0, 0, 3, 100], [0, 0, 0, 1.0]])


def a_case(folder, name="a", voxels=None, labels=None, affine=AFFINE):
    """One case of 4 × 5 × 6 voxels with air, bone, 12 voxels of liver in two slices and 2 of tumour."""
    if voxels is None:
        voxels = np.full((4, 5, 6), 40, np.int16)
        voxels[0], voxels[3] = -1000, 900
    if labels is None:
        labels = np.zeros((4, 5, 6), np.uint8)
        labels[1:3, 1:4, 2:4], labels[1, 1, 2:4] = 1, 2
    image = write_nifti(folder / "imagesTr" / f"{name}.nii", voxels, affine)
    return Case(name, image, write_nifti(folder / "labelsTr" / f"{name}.nii", labels, affine), name)


def warned(case):
    facts, findings = check_case(case)
    assert {f.severity for f in findings} <= {"warning"}
    return facts, [f.message.removeprefix(f"{case.image}: ") for f in findings]


def test_facts_by_hand(tmp_path):
    facts, warnings = warned(a_case(tmp_path))
    assert warnings == []
    assert facts.shape == (4, 5, 6)
    assert facts.spacing_mm == (0.5, 2, 3)
    assert facts.hu_range == (-1000, 900)
    assert facts.liver_ml == pytest.approx(12 * 0.003)
    assert facts.tumour_ml == pytest.approx(2 * 0.003)
    assert facts.positive_slices == 2
    assert facts.liver_hu == {40: 12}
    assert (facts.orientation, facts.real_spacing) == ("RAS", True)


def test_facts_do_not_depend_on_how_the_file_is_stored(tmp_path):
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    labels = (voxels > 500).astype(np.uint8)
    expected = check_case(a_case(tmp_path / "ras", voxels=voxels, labels=labels))[0]
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("PIL"))
    stored = [apply_orientation(v, turn) for v in (voxels, labels)]
    facts = check_case(a_case(tmp_path / "pil", "a", *stored, AFFINE @ inv_ornt_aff(turn, voxels.shape)))[0]
    assert facts.orientation == "PIL"
    for name in ("shape", "voxel_hash", "hu_range", "liver_hu", "positive_slices"):
        assert getattr(facts, name) == getattr(expected, name), name
    assert facts.liver_ml == pytest.approx(expected.liver_ml)


def test_copies_in_another_type_have_one_hash(tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    kinds = (np.int16, np.float32, np.float64)
    cases = [a_case(tmp_path / kind.__name__, voxels=voxels.astype(kind)) for kind in kinds]
    assert len({check_case(case)[0].voxel_hash for case in cases}) == 1


def test_another_voxel_is_another_hash(tmp_path):
    facts = check_case(a_case(tmp_path / "1"))[0]
    voxels = np.full((4, 5, 6), 40, np.int16)
    voxels[0], voxels[3], voxels[3, 4, 5] = -1000, 900, 899
    assert check_case(a_case(tmp_path / "2", voxels=voxels))[0].voxel_hash != facts.voxel_hash


def with_ends(low, high):
    voxels = np.full((4, 5, 6), 40, np.int16)
    voxels[0, 0, 0], voxels[0, 0, 1] = low, high
    return voxels


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-500, 300, []),
        (-1024, 4000, []),
        (-499, 300, ["HU looks clipped or scaled"]),
        (-1000, 299, ["HU looks clipped or scaled"]),
        (0, 2047, ["HU looks clipped or scaled"]),  # the intercept of -1024 was forgotten
        (-1025, 900, ["below air (-1024 HU) in 0.83 % of the voxels"]),
        (-3024, 4001, ["below air", "HU above 4000"]),
    ],
)
def test_unusual_hu(tmp_path, low, high, expected):
    _, warnings = warned(a_case(tmp_path, voxels=with_ends(low, high)))
    assert len(warnings) == len(expected)
    assert all(got.startswith(start) for got, start in zip(warnings, expected, strict=True)), warnings


@pytest.mark.parametrize(("hu", "odd"), [(-31, True), (-30, False), (250, False), (251, True)])
def test_a_liver_of_no_liver_hu_is_odd(tmp_path, hu, odd):
    voxels = with_ends(-1000, 900)
    voxels[1:3, 1:4, 2:4] = hu
    _, warnings = warned(a_case(tmp_path, voxels=voxels))
    assert len(warnings) == odd
    assert (
        not odd or f"the liver's median lies outside [-30, 250] HU: is it on its image? Received: {hu}" in warnings[0]
    )


@pytest.mark.parametrize(
    ("spacing", "origin", "width", "message"),
    [
        ((1, 1, 1), (0, 0, 0), 4, "identity affine with 1 mm spacing"),  # LiTS volumes 28 to 47
        ((-1, -1, 1), (0, 0, 0), 4, "identity affine with 1 mm spacing"),
        ((1, 1, 3), (0, 0, 321), 4, "exactly 1 × 1 × 3 mm looks like a placeholder"),
        ((1, 1, 2), (-200, 30, 0), 512, "exactly 1 × 1 × 2 mm looks like a placeholder"),
        ((1, 1, 1), (-200, 30, 5), 4, None),  # resampled to 1 mm
        ((0.9, 1, 1), (0, 0, 0), 4, None),
    ],
)
def test_placeholder_spacing(tmp_path, spacing, origin, width, message):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    voxels, labels = np.full((width, 5, 6), 40, np.int16), np.ones((width, 5, 6), np.uint8)
    voxels[0], voxels[1] = -1000, 900
    facts, warnings = warned(a_case(tmp_path, "a", voxels, labels, affine))
    assert facts.real_spacing == (message is None)
    assert len(warnings) == (message is not None)
    assert message is None or message in warnings[0]
    assert message is None or "millilitres and millimetres mean nothing" in warnings[0]


def test_no_orientation_at_all_is_odd(tmp_path):
    case = a_case(tmp_path)
    for path in (case.image, case.label):
        data = bytearray(path.read_bytes())
        data[252:256] = bytes(4)  # qform_code, sform_code
        path.write_bytes(data)
        assert not nib.load(path).header["sform_code"]
    assert "no orientation is set (qform_code and sform_code are 0)" in " ".join(warned(case)[1])


def test_everything_wrong_with_a_case_is_said_at_once(tmp_path):
    case = a_case(tmp_path)
    case.image.write_bytes(b"")
    case.label.unlink()
    facts, findings = check_case(case)
    assert facts == CaseFacts("a", "a")
    assert [f.severity for f in findings] == ["error", "error"]
    assert "the file is empty" in findings[0].message
    assert "No such file" in findings[1].message


def test_a_label_alone_still_tells_its_volume(tmp_path):
    case = a_case(tmp_path)
    case.image.write_bytes(b"<html>")
    facts, _ = check_case(case)
    assert (facts.shape, facts.liver_hu, facts.positive_slices) == (None, None, 2)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold imagesTr"):
        verify_folder(tmp_path, workers=1)


HU = arrays(np.int16, st.integers(1, 300), elements=st.integers(-32768, 32767))


@given(scans=st.lists(HU, min_size=1, max_size=4), percent=st.sampled_from(PERCENTILES))
def test_merged_histograms_have_the_percentiles_of_all_voxels(scans, percent):
    merged = sum(map(histogram, scans), Counter())
    together = np.concatenate(scans)
    assert merged.total() == together.size
    assert percentile(merged, percent) == np.percentile(together, percent, method="inverted_cdf")


def test_histograms_are_bounded_whatever_comes():
    assert histogram(np.array([1e9, -1e9, 0.4, -0.6], np.float32)) == {32767: 1, -32768: 1, 0: 1, -1: 1}


def facts_of(name, liver_hu, **more):
    known = {"shape": (512, 512, 10), "spacing_mm": (0.8, 0.8, 5.0), "real_spacing": True}
    return CaseFacts(name, name, **(known | {"liver_hu": Counter(liver_hu), **more}))


def test_fingerprint_by_hand():
    cases = [
        facts_of("a", {100: 990, 20: 5, 183: 5}, liver_ml=1000.0, tumour_ml=0.0),
        facts_of("b", {100: 500}, liver_ml=2000.0, tumour_ml=100.0, spacing_mm=(0.6, 0.6, 1)),
        facts_of("no liver", {}, liver_ml=0.0, tumour_ml=0.0, shape=(512, 512, 1000)),
        facts_of("identity", {100: 500}, liver_ml=9e9, tumour_ml=9e8, spacing_mm=(1, 1, 1), real_spacing=False),
        CaseFacts("unreadable", "unreadable"),
    ]
    found = fingerprint(cases)
    assert (found["cases"], found["cases_with_liver"], found["cases_with_tumour"]) == (5, 3, 2)
    assert (found["cases_with_real_spacing"], found["liver_voxels"]) == (3, 2000)
    assert found["liver_hu_percentiles"] == {"0.5": 100, "5": 100, "50": 100, "95": 100, "99.5": 100}
    assert found["suggested_window_hu"] == [0, 200]
    assert found["shape"]["max"] == [512, 512, 1000]
    assert found["spacing_mm"] == {"min": [0.6, 0.6, 1], "median": [0.8, 0.8, 5], "max": [0.8, 0.8, 5]}
    assert found["liver_ml"] == {"min": 1000, "median": 1500, "max": 2000}
    assert found["tumour_share_of_liver"] == {"min": 0, "median": 0.05, "max": 0.1}


def test_fingerprint_of_nothing_is_none():
    found = fingerprint([])
    assert found["suggested_window_hu"] is found["liver_hu_percentiles"] is found["spacing_mm"] is None


@given(values=HU)
def test_the_window_keeps_100_hu_on_either_side(values):
    counts = histogram(values)
    low, high = suggest_window(counts)
    assert low % 10 == high % 10 == 0
    assert 100 <= percentile(counts, 0.5) - low < 110
    assert 100 <= high - percentile(counts, 99.5) < 110


def test_suggested_window_of_the_usual_liver():
    assert suggest_window(Counter({-15: 1, 100: 98, 197: 1})) == [-120, 300]
