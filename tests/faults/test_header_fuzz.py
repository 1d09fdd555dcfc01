"""Seeded damage to headers and voxels of NIfTI files: read as nibabel reads them, or refused by name."""

import gzip
import struct
import time
import warnings
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tf_liver.data import DataError, DataWarning
from tf_liver.data.header import MM_PER_UNIT
from tf_liver.data.nifti import Volume, read_volume

# Field of NIfTI-1 → where it begins, how many, of which struct type.
FIELDS = {
    **{"dim": (40, 8, "h"), "datatype": (70, 1, "h"), "bitpix": (72, 1, "h"), "pixdim": (76, 8, "f")},
    **{"vox_offset": (108, 1, "f"), "scl_slope": (112, 1, "f"), "scl_inter": (116, 1, "f"), "intent": (68, 1, "h")},
    **{"xyzt_units": (123, 1, "B"), "qform_code": (252, 1, "h"), "sform_code": (254, 1, "h")},
    **{"quatern": (256, 6, "f"), "srow": (280, 12, "f"), "magic": (344, 4, "B"), "slice_code": (122, 1, "B")},
}
NUMBERS = {
    "h": [*range(-1, 9), 16, 64, 255, 256, 512, 32767, -32768],
    "f": [0, 1, -1, 0.5, 2, np.nan, np.inf, -np.inf, 1e30, 1e-30, 352, 368, 1e9, -3.2],
    "B": list(range(256)),
}


def a_file(rng: np.random.Generator) -> bytes:
    """A small valid file: any axes or an oblique rotation, any of the forms, units, types and scaling."""
    voxels = rng.integers(0, 200, rng.integers(2, 7, 3)).astype(rng.choice(["i2", "u1", "f4", "u2", "i4", "f8"]))
    oblique = rng.random() < 0.3
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] if oblique else np.eye(3)[rng.permutation(3)]
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.choice([-1, 1], 3) @ np.diag(rng.uniform(0.5, 5, 3))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    unit = str(rng.choice(["mm", "meter", "micron", "unknown"]))
    affine[:3] /= {"meter": 1000, "micron": 0.001}.get(unit, 1)
    image = (nib.Nifti2Image if rng.random() < 0.2 else nib.Nifti1Image)(voxels, affine)
    image.header.set_xyzt_units(unit)
    image.header.set_qform(affine if rng.random() < 0.5 else np.diag([1, 1, 2, 1]), int(rng.integers(0, 5)))
    image.header.set_sform(affine, int(rng.integers(0, 5)))
    if rng.random() < 0.3:
        image.header.set_slope_inter(float(rng.choice([1, 2, 0.5])), float(rng.choice([0, -1024, 3.5])))
    return nib.Nifti1Image.to_bytes(type(image)(voxels, None, image.header))


def damaged(data: bytes, rng: np.random.Generator) -> tuple[bytearray, str]:
    """The file with one field, one byte of the header or up to three bits changed, and what was."""
    out, way = bytearray(data), rng.integers(5)
    if way <= 2 and len(data) and data[0] == 0x5C:
        name = str(rng.choice(list(FIELDS)))
        start, count, kind = FIELDS[name]
        number, value = int(rng.integers(count)), NUMBERS[kind][int(rng.integers(len(NUMBERS[kind])))]
        struct.pack_into(f"<{kind}", out, start + number * struct.calcsize(kind), value)
        return out, f"{name}[{number}] = {value}"
    if way == 3:
        at, byte = int(rng.integers(352)), int(rng.integers(256))
        out[at] = byte
        return out, f"byte {at} = {byte}"
    bits = [(int(rng.integers(len(out))), int(rng.integers(8))) for _ in range(rng.integers(1, 4))]
    for at, bit in bits:
        out[at] ^= 1 << bit
    return out, f"bits {bits}"


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Canonical voxels, and affine in mm, as nibabel gives them; trailing axes of 1 are dropped."""
    image = nib.as_closest_canonical(nib.load(path))
    voxels, affine = np.asanyarray(image.dataobj), image.affine.copy()
    affine[:3] *= MM_PER_UNIT.get(int(nib.load(path).header["xyzt_units"]) & 7, 1.0)
    while voxels.ndim > 3:
        voxels = voxels[..., 0]
    return voxels, affine


def attempt(path: Path) -> tuple[Volume | None, str]:
    try:
        return read_volume(path), ""
    except DataError as error:
        return None, str(error)


def check(number: int, seed: int, folder: Path) -> Counter:
    rng, seen = np.random.default_rng(seed), Counter[str]()
    for n in range(number):
        data, what = damaged(a_file(rng), rng)
        gzipped = rng.random() < 0.3
        path = folder / f"scan{n}.nii{'.gz' * gzipped}"
        path.write_bytes(gzip.compress(bytes(data), 1) if gzipped else data)
        begin = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # nibabel scales beyond float32
            ours, refusal = attempt(path)
            assert time.monotonic() - begin < 10, what
            if ours is None:
                assert str(path) in refusal, what
                seen["refused"] += 1
                continue
            voxels, affine = by_nibabel(path)
        assert ours.voxels.shape == voxels.shape, what
        np.testing.assert_allclose(ours.voxels, voxels.astype(np.float64), rtol=1e-5, atol=1e-4, err_msg=what)
        np.testing.assert_allclose(ours.affine, affine, rtol=1e-6, atol=1e-6, err_msg=what)
        seen["as nibabel"] += 1
        path.unlink()
    return seen


@pytest.fixture
def _quiet_nibabel():
    level = nib.imageglobals.logger.level
    nib.imageglobals.logger.setLevel(100)
    yield
    nib.imageglobals.logger.setLevel(level)


@pytest.mark.usefixtures("_quiet_nibabel")
def test_damaged_headers_are_read_as_nibabel_does_or_refused_by_name(tmp_path):
    seen = check(400, 1, tmp_path)
    assert seen["as nibabel"] > 250
    assert seen["refused"] > 30


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet_nibabel")
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_thousand_more(tmp_path, seed):
    assert sum(check(1000, seed, tmp_path).values()) == 1000
