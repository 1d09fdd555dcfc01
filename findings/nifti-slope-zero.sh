#!/usr/bin/env bash
# NIfTI with scl_slope 0 and scl_inter -1024: SimpleITK 2.5.7 subtracts 1024, nibabel 5.4.2 gives the stored values.
# The NIfTI-1 standard: "if the scl_slope field is nonzero", values are scaled; otherwise scl_inter means nothing. So one
# reader sees HU that are 1,024 lower than the other, in silence. Seen on 2026-11-27.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7
environment/bin/python - <<'PYTHON'
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

stored = np.arange(1000, 1008, dtype=np.int16).reshape(2, 2, 2)
nib.save(nib.Nifti1Image(stored, np.eye(4)), "scan.nii")
raw = bytearray(Path("scan.nii").read_bytes())
struct.pack_into("<ff", raw, 112, 0.0, -1024.0)  # scl_slope, scl_inter
Path("scan.nii").write_bytes(raw)
nibabel = np.asanyarray(nib.load("scan.nii").dataobj).ravel(order="F").tolist()
itk = sitk.GetArrayFromImage(sitk.ReadImage("scan.nii")).ravel().tolist()
print("stored   ", stored.ravel(order="F").tolist())
print("nibabel  ", nibabel)
print("SimpleITK", itk)
same = nibabel == stored.ravel(order="F").tolist() and itk == [v - 1024 for v in nibabel]
raise SystemExit(0 if same else "changed")
PYTHON
