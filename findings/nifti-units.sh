#!/usr/bin/env bash
# NIfTI in metres or microns: SimpleITK 2.5.7 turns spacing and origin into mm, nibabel 5.4.2 hands them out as they stand.
# A liver of 1.4 litres is 0.0000014 ml to whoever multiplies nibabel's zooms. xyzt_units is in the NIfTI-1 standard.
# What SimpleITK writes again is in mm. Seen on 2026-11-27.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7
environment/bin/python - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

wrong = []
for unit, factor in (("mm", 1), ("meter", 1e-3), ("micron", 1e3)):
    affine = np.diag([-0.8 * factor, 0.7 * factor, 2.5 * factor, 1])
    affine[:3, 3] = np.array([90, -80, -300]) * factor
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, "scan.nii")
    zooms = np.array(nib.load("scan.nii").header.get_zooms(), float)
    itk = sitk.ReadImage("scan.nii")
    print(f"{unit:6} nibabel {zooms}   SimpleITK {np.round(itk.GetSpacing(), 6)} at {np.round(itk.GetOrigin(), 3)}")
    right = np.allclose(itk.GetSpacing(), [0.8, 0.7, 2.5]) and np.allclose(itk.GetOrigin(), [-90, 80, -300])
    if not right or not np.allclose(zooms, np.array([0.8, 0.7, 2.5]) * factor):
        wrong.append(unit)
raise SystemExit(f"changed for {wrong}" if wrong else 0)
PYTHON
