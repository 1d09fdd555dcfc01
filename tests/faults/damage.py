"""A small flawless data folder, ways to damage its files, and the command that has to notice."""

import gzip
import json
import struct
from collections.abc import Callable

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension
from small import write_nifti

from tf_liver import verify

SHAPE = (24, 20, 6)
AFFINE = np.array([[0.8, 0, 0, -40], [0, 0.9, 0, 30], [0, 0, 2.5, 100], [0, 0, 0, 1]])
AIR, BONE, LIVER = -1000, 900, 100

# Offsets of NIfTI-1 header fields, from nifti1.h.
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, INTER = 40, 70, 72, 76, 108, 112, 116
QFORM_CODE, SFORM_CODE, QUATERN_B, SROW_X, EXTENDER = 252, 254, 256, 280, 348


def ct_voxels():
    """Noise that gzip cannot shorten, with air, bone and a liver."""
    voxels = np.random.default_rng(0).integers(-900, 800, SHAPE).astype(np.int16)
    voxels[0], voxels[1], voxels[8:12, 8:12] = AIR, BONE, LIVER
    return voxels


def label_voxels():
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:12, 8:12] = 1
    return labels


def write_folder(tmp_path):
    """Write a Task03_Liver folder of two flawless cases, `good` and `bad`; the latter is there to be broken."""
    for name in ("good", "bad"):
        voxels = ct_voxels()
        voxels[2] += name == "bad"
        write_nifti(tmp_path / "data" / "imagesTr" / f"{name}.nii.gz", voxels, AFFINE)
        write_nifti(tmp_path / "data" / "labelsTr" / f"{name}.nii.gz", label_voxels(), AFFINE)
    return tmp_path / "data"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_verify(folder, capsys, *options):
    """Run the command; return exit code, its text and its JSON. It must leave the data alone, and whole files."""
    output, before = folder.parent / "out", contents(folder)
    code = verify.main([str(folder), "--output", str(output), "--workers", "1", *options])
    said = capsys.readouterr()
    assert contents(folder) == before
    assert {p.name for p in output.iterdir()} <= {"verification.json", "fingerprint.json"}
    assert "Traceback" not in said.out + said.err
    return code, said.out, json.loads((output / "verification.json").read_text())


def in_stream(change: Callable[[bytearray], bytes | None]) -> Callable[[bytes], bytes]:
    """Return a damage that changes the NIfTI bytes inside an intact gzip."""

    def damage(packed: bytes) -> bytes:
        data = bytearray(gzip.decompress(packed))
        return gzip.compress(change(data) or bytes(data), 1)

    return damage


def field(offset: int, kind: str, *values: float) -> Callable[[bytes], bytes]:
    """Return a damage that overwrites a header field."""
    return in_stream(lambda data: struct.pack_into(f"<{len(values)}{kind}", data, offset, *values))


def retyped(dtype: type, code: int | None = None) -> Callable[[bytes], bytes]:
    """Return a damage that stores the voxels as another type, under nibabel's code for it or a false one."""

    def change(data: bytearray) -> bytes:
        image = nib.Nifti1Image(ct_voxels().astype(dtype), AFFINE)
        whole = bytearray(image.to_bytes())
        if code is not None:
            struct.pack_into("<h", whole, DATATYPE, code)
        return bytes(whole)

    return in_stream(change)


def with_extension(vox_offset: float) -> Callable[[bytes], bytes]:
    """Return a damage that adds a real header extension and lets vox_offset point into it."""

    def change(data: bytearray) -> bytes:
        image = nib.Nifti1Image(ct_voxels(), AFFINE)
        image.header.extensions.append(Nifti1Extension("comment", b"scanned on a Monday"))
        whole = bytearray(image.to_bytes())
        assert struct.unpack_from("<f", whole, VOX_OFFSET)[0] > 368
        struct.pack_into("<f", whole, VOX_OFFSET, vox_offset)
        return bytes(whole)

    return in_stream(change)


def floats(value: float) -> Callable[[bytes], bytes]:
    """Return a damage that stores float32 voxels, one of them `value`."""

    def change(data: bytearray) -> bytes:
        voxels = ct_voxels().astype(np.float32)
        voxels[3, 4, 5] = value
        return nib.Nifti1Image(voxels, AFFINE).to_bytes()

    return in_stream(change)


def no_affine(*changes: Callable[[bytes], bytes], code: int = 0) -> Callable[[bytes], bytes]:
    """Return a damage that leaves the affine to pixdim (code 0) or the quaternion (code 1), and changes those."""

    def damage(packed: bytes) -> bytes:
        for change in (field(SFORM_CODE, "h", 0), field(QFORM_CODE, "h", code), *changes):
            packed = change(packed)
        return packed

    return damage
