"""What tests are made small with: a scan of any voxels, a training of seconds, and what batches hold."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

TINY = [
    *("--image-size", "32", "--batch-size", "8", "--epochs", "2", "--precision", "float32"),
    "--no-store",
    *("--backbone", "resnet18", "--batch-norm-momentum", "0.8", "--workers", "2"),
]


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None, slope: float = 1, inter: float = 0):
    """Write voxels as they are, with a header that says slope and intercept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    image.header.set_data_dtype(voxels.dtype)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([slope, inter], "<f4").tobytes()
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(bytes(data), 1))
    else:
        path.write_bytes(data)
    return path


def samples(dataset):
    """Every image and mask of a dataset of batches, as bytes."""
    return [
        (i.tobytes(), m.tobytes())
        for images, masks in dataset.as_numpy_iterator()
        for i, m in zip(images, masks, strict=True)
    ]
