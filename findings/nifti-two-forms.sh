#!/usr/bin/env bash
# NIfTI with two different forms: SimpleITK 2.5.7 takes the qform where sform_code is 2, 3 or 4; nibabel 5.4.2 the sform.
# The NIfTI-1 standard leaves the choice to the program. Registration tools write sform_code 2 ("aligned") beside a qform of
# the scanner (code 1), so the same label map lies in two places, depending on who reads it. No warning from either.
# Seen on 2026-11-27: only with sform_code 1, or without a qform, do both take the sform.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7
environment/bin/python - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

sform = np.array([[-0.8, 0, 0, 90], [0, 0.7, 0, -80], [0, 0, 2.5, -300], [0, 0, 0, 1]])
qform = np.diag([0.8, 0.7, 2.5, 1.0])
# Origins as each reader states them: SimpleITK counts x and y the other way (LPS).
itk_origins = {(-90.0, 80.0, -300.0): "sform", (0.0, 0.0, 0.0): "qform"}
nib_origins = {(90.0, -80.0, -300.0): "sform", (0.0, 0.0, 0.0): "qform"}
print("sform_code qform_code   SimpleITK   nibabel")
wrong = []
for s in range(1, 5):
    for q in range(5):
        header = nib.Nifti1Header()
        header.set_data_shape((4, 5, 6))
        header.set_data_dtype(np.int16)
        header.set_qform(qform, q)
        header.set_sform(sform, s)
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), None, header), "scan.nii")
        itk = itk_origins[tuple(round(v, 3) for v in sitk.ReadImage("scan.nii").GetOrigin())]
        nibabel = nib_origins[tuple(np.round(nib.load("scan.nii").affine[:3, 3], 3).tolist())]
        print(f"{s:10} {q:10}   {itk:9}   {nibabel}")
        if nibabel != "sform" or itk != ("qform" if s > 1 and q > 0 else "sform"):
            wrong.append((s, q))
raise SystemExit(f"changed for {wrong}" if wrong else 0)
PYTHON
