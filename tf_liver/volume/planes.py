"""The slices of a case that a person should look at: grey pictures, contours and areas, to scale.

Lengths in pictures are tenths of a millimetre: whole numbers, fine enough for a contour and short in SVG. As
radiologists look at it: anterior or superior up, the patient's right (in sagittal planes anterior) at the left.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tf_liver.data import LABELS
from tf_liver.data.cases import Case
from tf_liver.data.nifti import check_same_grid, read_label, read_volume
from tf_liver.volume.drawing import PER_MM, bounding_box, counts_across, grey_webp, outline

AXIAL_SLICES, APART_MM = 3, 12.0
MARGIN_MM = 12.0
THINNEST_MM = 20.0


@dataclass(frozen=True)
class Region:
    """SVG paths of one region in one plane."""

    reference: str
    prediction: str
    missed: str
    invented: str


@dataclass(frozen=True)
class Plane:
    """One slice: its picture as a data URI, sizes in tenths of a millimetre, and its areas in cm².

    number: of the slice, from 1, counted from the feet, the back or the patient's left; `count` there are.
    crop: x, y, width, height of what holds both masks.
    """

    kind: str
    number: int
    count: int
    size: tuple[int, int]
    crop: tuple[int, int, int, int]
    picture: str
    regions: dict[str, Region]
    missed_cm2: float
    invented_cm2: float


@dataclass(frozen=True)
class Profile:
    """Areas in cm² of one region along the axial slices, from the feet up, and what both masks share."""

    reference_cm2: np.ndarray
    prediction_cm2: np.ndarray
    shared_cm2: np.ndarray

    @property
    def dice(self) -> np.ndarray:
        """Dice of each slice; NaN where both masks are empty, for there is nothing to overlap."""
        both = self.reference_cm2 + self.prediction_cm2
        return np.divide(2 * self.shared_cm2, both, out=np.full(both.shape, np.nan), where=both > 0)


@dataclass(frozen=True)
class Views:
    """What is shown of one case; `problem` says why there is nothing."""

    case_id: str
    planes: list[Plane] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class _Scan:
    """HU and both label maps, canonical (width, height, depth); the labels of each region; the box that holds any."""

    hu: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]
    regions: Mapping[str, Sequence[int]]
    box: tuple[slice, ...]

    def masks(self, region: str, part: tuple) -> tuple[np.ndarray, np.ndarray]:
        """Return both masks of a region in a part of the grid."""
        is_in = np.isin(np.arange(len(LABELS)), self.regions[region])
        return is_in[self.reference[part]], is_in[self.prediction[part]]

    def wrong(self) -> np.ndarray:
        """Return where any region's masks differ, in the box."""
        membership = [np.isin(np.arange(len(LABELS)), labels) << n for n, labels in enumerate(self.regions.values())]
        regions_of = np.sum(membership, axis=0).astype(np.uint8)
        return regions_of[self.reference[self.box]] != regions_of[self.prediction[self.box]]


def view_case(case: Case, prediction: Path, regions: Mapping[str, Sequence[int]]) -> Views:
    """Return the worst slices of a case in three planes, the axial ones first, and its areas along the slices.

    regions: name → its labels.

    Raises:
        DataError: a file cannot be read, or the grids differ.
        OSError: a file is missing.
    """
    image, reference, found = read_volume(case.image), read_label(case.label), read_label(prediction)
    check_same_grid(image, reference, case.label)
    check_same_grid(image, found, prediction)
    box = bounding_box((reference.voxels | found.voxels) > 0)
    scan = _Scan(image.voxels, reference.voxels, found.voxels, image.spacing_mm, regions, box)
    wrong, labelled = counts_across(scan.wrong()), counts_across(scan.masks(next(iter(regions)), box)[0])
    planes = [
        _plane(scan, axis, box[axis].start + index)
        for axis, number in _wanted(scan)
        for index in worst_slices(wrong[axis], labelled[axis], number, scan.spacing_mm[axis])
    ]
    profiles = {region: _profile(scan, region) for region in regions}
    return Views(case.case_id, planes, profiles, image.voxels.shape, image.spacing_mm)


def view_or_say_why(job: tuple[str, Case | None, Path, Mapping[str, Sequence[int]]]) -> Views:
    """Return what `view_case` does, or why it cannot: one bad scan must not cost the pictures of the others."""
    case_id, case, prediction, regions = job
    if case is None:
        return Views(case_id, problem="the scan is not in the data folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about these files was said when they were scored
            return view_case(case, prediction, regions)
    except (ValueError, OSError) as error:
        return Views(case_id, problem=" ".join(str(error).split()))


def _wanted(scan: _Scan) -> list[tuple[int, int]]:
    """Return (axis, number of slices) for the planes in which a scan of a few slices is more than a line.

    The axial one is always shown: a scan may be tiny, by its header or in truth.
    """
    size_mm = np.multiply(scan.hu.shape, scan.spacing_mm)
    numbers = {2: AXIAL_SLICES, 1: 1, 0: 1}
    return [
        (axis, number) for axis, number in numbers.items() if axis == 2 or np.delete(size_mm, axis).min() >= THINNEST_MM
    ]


def worst_slices(wrong: np.ndarray, labelled: np.ndarray, number: int, spacing_mm: float) -> list[int]:
    """Return up to `number` slices across an axis, most wrong voxels first, APART_MM or more from each other.

    wrong, labelled: voxels of each slice; among slices that are equally wrong the one with more labels comes first.
    """
    chosen: list[int] = []
    for index in np.lexsort((-labelled, -wrong)):
        if all(abs(index - c) * spacing_mm >= APART_MM for c in chosen):
            chosen.append(int(index))
        if len(chosen) == number:
            break
    return chosen


def _plane(scan: _Scan, axis: int, index: int) -> Plane:
    across, up = (a for a in range(3) if a != axis)
    spacing = scan.spacing_mm[across], scan.spacing_mm[up]
    part = tuple(index if a == axis else slice(None, None, -1) for a in range(3))
    hu = scan.hu[part].T
    masks = {region: [mask.T for mask in scan.masks(region, part)] for region in scan.regions}
    drawn = {r: Region(*(outline(m, spacing) for m in (e, f, e & ~f, f & ~e))) for r, (e, f) in masks.items()}
    expected, found = next(iter(masks.values()))
    size = round(hu.shape[1] * spacing[0] * PER_MM), round(hu.shape[0] * spacing[1] * PER_MM)
    pixel_cm2 = spacing[0] * spacing[1] / 100
    return Plane(
        kind=("sagittal", "coronal", "axial")[axis],
        number=index + 1,
        count=scan.hu.shape[axis],
        size=size,
        crop=_crop(np.any([m for pair in masks.values() for m in pair], axis=0), spacing, size),
        picture=grey_webp(hu),
        regions=drawn,
        missed_cm2=float(np.count_nonzero(expected & ~found) * pixel_cm2),
        invented_cm2=float(np.count_nonzero(found & ~expected) * pixel_cm2),
    )


def _profile(scan: _Scan, region: str) -> Profile:
    mm_x, mm_y, _ = scan.spacing_mm
    expected, found = scan.masks(region, scan.box)
    areas = np.zeros((3, scan.hu.shape[2]))
    for row, mask in zip(areas, (expected, found, expected & found), strict=True):
        row[scan.box[2]] = [np.count_nonzero(plane) * mm_x * mm_y / 100 for plane in mask.T]
    return Profile(*areas)


def _crop(mask: np.ndarray, spacing_mm: tuple[float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return x, y, width, height around a mask with a margin, as 4 : 3 where the picture is large enough for it."""
    columns_rows = bounding_box(mask)[::-1]
    low, high = (np.array([getattr(s, end) for s in columns_rows]) * spacing_mm * PER_MM for end in ("start", "stop"))
    wanted = high - low + 2 * MARGIN_MM * PER_MM
    wanted = np.minimum(np.maximum(wanted, wanted[::-1] * (4 / 3, 3 / 4)), size)
    begin = np.clip((low + high - wanted) / 2, 0, size - wanted)
    x, y, width, height = (round(v) for v in (*begin, *wanted))
    return x, y, width, height
