"""Synthetic abdominal CT in the Task03_Liver layout: nothing to download, and not to be solved by a threshold.

Organs are perturbed ellipsoids in millimetres, painted in order. The HU values are those of portal-venous CT;
spleen, heart, vessels and bowel come close to the liver's on purpose. What is learnt on phantoms holds for
phantoms only.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from tf_liver.data import LABELS
from tf_liver.files import write_atomic

ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI", "ASR", "PIL")
HALF_WIDTH_MM, HALF_DEPTH_MM, HALF_HEIGHT_MM = 185.0, 140.0, 125.0


@dataclass(frozen=True)
class Phantom:
    """One synthetic scan in canonical orientation: voxels int16 HU, labels uint8, both (W, H, D)."""

    voxels: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


class _Canvas:
    """A grid in mm (x right, y anterior, z superior) that organs are painted on."""

    def __init__(self, rng: np.random.Generator, size: int, vary: float) -> None:
        self.rng = rng
        width, height = (int(size * rng.uniform(1 - vary, 1 + vary)) for _ in range(2))
        depth = int(rng.integers(28, 44))
        half = np.array([HALF_WIDTH_MM, HALF_DEPTH_MM, HALF_HEIGHT_MM])
        self.spacing_mm = 2 * half / (width, height, depth)
        ends = zip((width, height, depth), half, strict=True)
        self.x, self.y, self.z = np.meshgrid(
            *[np.linspace(-h, h, n, dtype=np.float32) for n, h in ends], indexing="ij", sparse=True
        )
        self.hu = np.full((width, height, depth), -1000, np.float32)
        self.labels = np.zeros((width, height, depth), np.uint8)

    def ellipsoid(self, centre_mm: tuple, radii_mm: tuple, lobes: float = 0.0) -> np.ndarray:
        """Return a mask; `lobes` is how far smooth waves push the surface in and out, as a share of the radius."""
        distance = sum(
            ((axis - c) / r) ** 2 for axis, c, r in zip((self.x, self.y, self.z), centre_mm, radii_mm, strict=True)
        )
        if not lobes:
            return distance < 1
        return np.sqrt(distance) < 1 + lobes * self.waves(90.0)

    def waves(self, length_mm: float) -> np.ndarray:
        """Return a smooth random field, about ±1, of the given wavelength."""
        field = np.zeros(self.hu.shape, np.float32)
        for _ in range(4):
            way = self.rng.normal(size=3)
            way *= 2 * np.pi / length_mm / np.linalg.norm(way) * self.rng.uniform(0.6, 1.4)
            phase = self.rng.uniform(0, 2 * np.pi)
            field += np.sin(way[0] * self.x + way[1] * self.y + way[2] * self.z + phase)
        return field / 2

    def near(self, value: float, spread: float) -> float:
        """Return a random number around `value`."""
        return value + self.rng.uniform(-spread, spread)


def make_phantom(rng: np.random.Generator, size: int = 128, vary: float = 0.1) -> Phantom:
    """Return one phantom of 28 to 43 slices, about half of which show liver.

    size: pixels in width and height, each give or take the share `vary`.
    """
    canvas = _Canvas(rng, size, vary)
    inside = _paint_trunk(canvas)
    liver_hu = canvas.near(105, 15)
    _paint_neighbours(canvas, inside, liver_hu)
    _paint_liver(canvas, inside, liver_hu)
    # Quantum noise is correlated by the reconstruction kernel: two neighbouring noises are mixed.
    noise = rng.normal(0, canvas.near(18, 5), canvas.hu.shape).astype(np.float32)
    canvas.hu += 0.75 * noise + 0.5 * np.roll(noise, 1, 0) + 6 * canvas.waves(200.0)
    affine = np.diag([*canvas.spacing_mm, 1.0])
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return Phantom(np.rint(canvas.hu.clip(-1024, 3071)).astype(np.int16), canvas.labels, affine)


def _paint_trunk(c: _Canvas) -> np.ndarray:
    """Paint fat, muscle, spine, ribs and lungs; return the mask of the cavity that organs lie in."""
    wide, deep = c.near(160, 14), c.near(112, 12)
    tall = 1e4  # a trunk is an ellipse in every slice
    c.hu[c.ellipsoid((0, 0, 0), (wide, deep, tall))] = c.near(-100, 8)
    wall = c.ellipsoid((0, 0, 0), (wide * 0.9, deep * 0.88, tall))
    c.hu[wall] = c.near(58, 8)
    inside = c.ellipsoid((0, 4, 0), (wide * 0.8, deep * 0.76, tall))
    c.hu[inside] = np.where(c.waves(45.0) > 0, c.near(35, 12), c.near(-85, 10))[inside]  # bowel in fat
    ribs = wall & ~c.ellipsoid((0, 0, 0), (wide * 0.84, deep * 0.81, tall))
    ribs &= np.sin(2 * np.pi * (c.z + 0.45 * c.y + 0.2 * np.abs(c.x)) / c.near(32, 4)) > 0.45
    c.hu[ribs] = c.near(380, 80)
    back = -deep * 0.62
    spine = c.ellipsoid((0, back, 0), (23, 21, tall))
    c.hu[spine] = c.near(300, 60)
    c.hu[c.ellipsoid((0, back, 0), (18, 16, tall))] = c.near(170, 30)
    c.hu[c.ellipsoid((0, back - 24, 0), (9, 8, tall))] = 25
    for side in (-1, 1):
        lung = c.ellipsoid((side * wide * 0.42, -5, 125), (wide * 0.36, deep * 0.68, c.near(85, 15))) & inside
        c.hu[lung] = c.near(-830, 40) + 40 * c.waves(25.0)[lung]
    return inside & ~spine


def _paint_neighbours(c: _Canvas, inside: np.ndarray, liver_hu: float) -> None:
    """Paint what lies around the liver; spleen, heart and stomach wall look much like it."""
    up = c.near(0, 8)
    c.hu[c.ellipsoid((-18, 30, up + 105), (50, 45, 42), 0.06) & inside] = liver_hu + c.near(15, 18)  # heart
    spleen = c.ellipsoid((-95, -32, up + 20), (c.near(34, 6), c.near(44, 8), c.near(48, 8)), 0.1) & inside
    c.hu[spleen] = liver_hu + c.near(6, 12)
    stomach = c.ellipsoid((-58, 38, up + 25), (46, 40, 42), 0.1) & inside
    c.hu[stomach] = liver_hu - c.near(10, 12)
    c.hu[c.ellipsoid((-58, 38, up + 25), (38, 32, 34), 0.1) & inside] = c.near(40, 30)
    c.hu[c.ellipsoid((-58, 56, up + 25), (24, 10, 22)) & inside] = -900  # its air
    for side in (-1, 1):
        kidney = c.ellipsoid((side * 62, -52, c.near(-55, 10)), (27, 25, c.near(50, 6)), 0.05) & inside
        c.hu[kidney] = liver_hu + c.near(55, 20)
        c.hu[c.ellipsoid((side * 56, -52, -55), (11, 9, 22)) & inside] = c.near(10, 15)
    c.hu[c.ellipsoid((-12, -38, 0), (11, 11, 1e4)) & inside] = liver_hu + c.near(50, 20)  # aorta
    c.hu[c.ellipsoid((0, 5, up - 30), (60, 14, 15), 0.2) & inside] = liver_hu - c.near(15, 10)  # pancreas


def _paint_liver(c: _Canvas, inside: np.ndarray, liver_hu: float) -> None:
    """Paint and label a liver of two lobes with its vessels, gallbladder and, in about half, tumours."""
    up = c.near(10, 12)
    right = c.ellipsoid((66, c.near(0, 8), up), (c.near(62, 8), c.near(78, 8), c.near(68, 10)), 0.13)
    left = c.ellipsoid((2, c.near(40, 6), up + 22), (c.near(66, 12), c.near(32, 6), c.near(36, 6)), 0.16)
    notch = c.ellipsoid((30, -8, up - 40), (22, 34, 34), 0.15)
    liver = (right | left) & inside & ~notch
    c.hu[liver] = liver_hu + 5 * c.waves(60.0)[liver]
    c.labels[liver] = 1
    vessels = np.abs(c.waves(85.0)) + np.abs(c.waves(85.0)) < 0.12  # two surfaces cross in thin tubes
    c.hu[vessels & liver] = liver_hu + c.near(38, 10)
    c.hu[c.ellipsoid((30, -34, 0), (13, 13, 1e4)) & inside & ~liver] = liver_hu + c.near(30, 12)  # vena cava
    gallbladder = c.ellipsoid((38, 36, up - 38), (15, 19, 26), 0.05) & inside
    c.hu[gallbladder] = c.near(12, 8)
    c.labels[gallbladder] = 0
    spots = np.argwhere(c.labels == 1)
    for _ in range(int(c.rng.integers(1, 5)) if c.rng.random() < 0.5 else 0):
        i, j, k = spots[c.rng.integers(len(spots))]
        centre = (c.x[i, 0, 0], c.y[0, j, 0], c.z[0, 0, k])
        tumour = c.ellipsoid(centre, tuple(c.rng.uniform(6, 20) * c.rng.uniform(0.8, 1.2, 3)), 0.15) & (c.labels > 0)
        c.hu[tumour] = liver_hu - c.near(45, 20)
        c.labels[tumour] = 2


def write_phantoms(folder: Path, cases: int, seed: int, size: int = 128, vary: float = 0.1) -> Iterator[Path]:
    """Write `cases` phantoms in the Task03_Liver layout, yielding each image file when its case is done.

    Orientation, spacing, size and header differ from case to case; the same arguments give the same files.
    """
    entries = []
    for number in range(cases):
        rng = np.random.default_rng((seed, number))
        phantom = make_phantom(rng, size, vary)
        name = f"phantom_{number:02d}.nii.gz"
        codes = ORIENTATIONS[number % len(ORIENTATIONS)]
        for kind, voxels in (("imagesTr", phantom.voxels), ("labelsTr", phantom.labels)):
            write_atomic(folder / kind / name, _nifti(voxels, phantom.affine, codes))
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        yield folder / "imagesTr" / name
    table = {
        "name": "Phantoms",
        "description": f"synthetic abdominal CT of tf_liver, seed {seed}",
        "modality": {"0": "CT"},
        "labels": {str(value): label for value, label in LABELS.items()},
        "numTraining": cases,
        "training": entries,
    }
    write_atomic(folder / "dataset.json", json.dumps(table, indent=1) + "\n")


def _nifti(voxels: np.ndarray, affine: np.ndarray, codes: str) -> bytes:
    """Return a .nii.gz of canonical voxels, stored in the orientation `codes`."""
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = apply_orientation(voxels, turn)
    image = nib.Nifti1Image(stored, affine @ inv_ornt_aff(turn, voxels.shape))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 4, mtime=0)
