import base64
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from small import write_nifti

from tf_liver.data.cases import Case
from tf_liver.volume.drawing import bounding_box, counts_across, outline
from tf_liver.volume.planes import view_case
from tf_liver.volume.scores import count, dice

SHAPE = (30, 40, 20)
SPACING = (2.0, 1.0, 5.0)
LIVER = {"liver": (1, 2)}


def a_case(folder, hu, reference, prediction, affine=None):
    affine = np.diag([*SPACING, 1]) if affine is None else affine
    image, label, found = (
        write_nifti(folder / f"{name}.nii", voxels, affine)
        for name, voxels in (("image", hu), ("label", reference), ("found", prediction))
    )
    return Case("a", image, label, "a"), found


def pixels(plane):
    data = base64.b64decode(plane.picture.removeprefix("data:image/webp;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def polygons(path):
    """Read back the SVG that outline writes: M x y l dx dy … z, again and again."""
    for part in path.split("z")[:-1]:
        numbers = np.array([int(n) for n in re.findall(r"-?\d+", part)]).reshape(-1, 2)
        yield Polygon(np.cumsum(numbers, axis=0), closed=False)


@settings(deadline=None, max_examples=60)
@given(
    arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.sampled_from([(1.0, 1.0), (0.7, 5.0), (3, 0.8)])
)
def test_an_outline_holds_the_voxels_of_its_mask_and_no_others(mask, spacing):
    rows, columns = np.indices(mask.shape)
    centres = np.stack([(columns.ravel() + 0.5) * spacing[0], (rows.ravel() + 0.5) * spacing[1]], 1) * 10
    crossed = sum((p.contains_points(centres) for p in polygons(outline(mask, spacing))), np.zeros(mask.size, int))
    np.testing.assert_array_equal(crossed.reshape(mask.shape) % 2, mask)


@given(arrays(bool, (3, 4, 5)))
def test_a_bounding_box_is_the_smallest(mask):
    box = bounding_box(mask)
    assert mask[box].sum() == mask.sum()
    if mask.any():
        for axis in range(3):
            assert mask[box].take([0, -1], axis).any(axis=tuple(a for a in range(3) if a != axis)).all()
    else:
        assert mask[box].shape == mask.shape


@given(arrays(bool, st.tuples(*[st.integers(1, 5)] * 3)))
def test_counts_across_every_axis(mask):
    for axis, counts in enumerate(counts_across(mask[::-1, :, ::-1])):
        expected = mask[::-1, :, ::-1].sum(axis=tuple(a for a in range(3) if a != axis))
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_pictures_are_seen_as_radiologists_see_them(tmp_path, flips):
    """Bright at the patient's right, anterior, superior end: at the left and top of its picture, in every plane."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[-8:, -10:, -6:] = 240
    label = (hu > 0).astype(np.uint8)
    stored = tuple(slice(None, None, way) for way in flips)
    affine = np.diag([*(np.array(SPACING) * flips), 1.0])
    case, found = a_case(tmp_path, hu[stored], label[stored], label[stored], affine)
    for plane in view_case(case, found, LIVER).planes:
        picture = pixels(plane)
        height, width = picture.shape
        assert picture[: height // 8, : width // 8].min() > 200, plane.kind
        assert picture[height // 2 :].max() < 60, plane.kind
        assert picture[:, width // 2 :].max() < 60, plane.kind
        assert plane.regions["liver"].reference == plane.regions["liver"].prediction != ""
        assert plane.regions["liver"].missed == plane.regions["liver"].invented == ""


def test_sizes_follow_the_spacing(tmp_path):
    label = np.zeros(SHAPE, np.uint8)
    label[10:20, 10:30, 5:15] = 1
    views = view_case(*a_case(tmp_path, label.astype(np.int16), label, label), LIVER)
    assert {p.kind: p.size for p in views.planes} == {
        "axial": (600, 400),
        "coronal": (600, 1000),
        "sagittal": (400, 1000),
    }
    assert views.spacing_mm == SPACING
    for plane in views.planes:
        x, y, width, height = plane.crop
        assert 0 <= x < x + width <= plane.size[0]
        assert 0 <= y < y + height <= plane.size[1]


def test_the_worst_slice_comes_first_and_its_areas_are_in_cm2(tmp_path):
    reference = np.zeros(SHAPE, np.uint8)
    reference[5:25, 10:30, 4:16] = 1
    prediction = reference.copy()
    prediction[5:15, 10:30, 12] = 0  # 200 voxels of 2 mm² missed: 4 cm²
    prediction[5:10, 10:30, 11] = 0  # less, and too near to be shown as well
    prediction[5:8, 10:30, 5] = 0
    prediction[28, 35, 12] = 1
    views = view_case(*a_case(tmp_path, reference.astype(np.int16), reference, prediction), LIVER)
    axial = [p for p in views.planes if p.kind == "axial"]
    assert [p.number for p in axial[:2]] == [13, 6]
    assert axial[0].missed_cm2 == pytest.approx(4.0)
    assert axial[0].invented_cm2 == pytest.approx(0.02)
    assert all(p.count == n for p, n in zip(views.planes[-2:], (40, 30), strict=True))
    dices = views.profiles["liver"].dice
    for z in range(SHAPE[2]):
        counts = count(reference[..., z] > 0, prediction[..., z] > 0)
        empty = not counts.reference and not counts.prediction
        assert np.isnan(dices[z]) if empty else dices[z] == pytest.approx(dice(counts))


def test_tumours_are_drawn_where_they_are_scored(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:25, 10:30, 4:16] = 1
    labels[10:14, 15:20, 8:10] = 2
    case, found = a_case(tmp_path, labels.astype(np.int16), labels, np.minimum(labels, 1))
    first = view_case(case, found, {"liver": (1, 2), "tumour": (2,)}).planes[0]
    assert (first.number, first.missed_cm2) == (9, 0)
    assert first.regions["tumour"].missed == first.regions["tumour"].reference != ""
    assert first.regions["tumour"].prediction == ""
    assert list(view_case(case, found, LIVER).planes[0].regions) == ["liver"]


def test_nothing_anywhere_and_a_scan_of_three_slices(tmp_path):
    nothing = np.zeros((40, 40, 3), np.uint8)
    case, found = a_case(tmp_path, nothing.astype(np.int16), nothing, nothing, np.eye(4))
    views = view_case(case, found, LIVER)
    assert {p.kind for p in views.planes} == {"axial"}, "a plane 3 mm high would be a line"
    assert np.isnan(views.profiles["liver"].dice).all()


def test_other_grids_are_refused(tmp_path):
    label = np.ones(SHAPE, np.uint8)
    case, _ = a_case(tmp_path, label.astype(np.int16), label, label)
    other = write_nifti(tmp_path / "other.nii", label[1:], np.diag([*SPACING, 1]))
    with pytest.raises(ValueError, match=r"other.nii: label and image must have one shape"):
        view_case(case, other, LIVER)
