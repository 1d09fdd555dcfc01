#!/usr/bin/env bash
# One CT series, three volumes: a slice that is missing, one that is there twice, and a series of one slice.
# Spacing between slices in mm, number of slices (10 slices, 2.5 mm apart, unless one is missing or twice):
#              SimpleITK 2.5.7 (GDCM series reader)   dcm2niix 1.0.20260724     dicom2nifti 2.6.2
#   missing    9 slices of 2.8125                     9 slices of 2.5           refused
#   twice      11 slices of 2.25                      11 slices of 2.5          10 slices of 2.5
#   one slice  1 slice of 1.0                         1 slice of 2.5            refused
# So a liver's millilitres differ by up to 25 % with the tool that made the NIfTI, and nothing in that file tells. SimpleITK
# and dcm2niix warn on the screen. SimpleITK takes no thickness for one slice: 1.0 mm for 2.5. Seen on 2026-11-27.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check \
  numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7 pydicom==3.0.2 dicom2nifti==2.6.2 dcm2niix==1.0.20260724
environment/bin/python - 2>messages.txt <<'PYTHON' || { cat messages.txt; exit 1; }
import contextlib
import os
import subprocess
from pathlib import Path

import dcm2niix
import dicom2nifti
import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from dicom2nifti.exceptions import ConversionValidationError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(folder, heights_mm):
    folder.mkdir()
    uids = {name: generate_uid() for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    for number, height in enumerate(heights_mm, start=1):
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, generate_uid()
        for name, uid in uids.items():
            setattr(d, name, uid)
        d.Modality, d.PatientID, d.PatientName, d.StudyDate = "CT", "P", "P", "20200101"
        d.Manufacturer, d.ImageType, d.PatientPosition = "X", ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
        d.SeriesNumber, d.InstanceNumber, d.Rows, d.Columns = 1, number, 16, 16
        d.PixelSpacing, d.SliceThickness = [0.8, 0.8], 2.5
        d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, height]
        d.RescaleSlope, d.RescaleIntercept, d.SamplesPerPixel = 1, -1024, 1
        d.PhotometricInterpretation, d.PixelRepresentation = "MONOCHROME2", 0
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit = 15
        d.PixelData = np.full((16, 16), 1024 + int(height), np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"{number:03}.dcm", d, enforce_file_format=True)


def nifti(path):
    image = nib.load(path)
    return image.shape[2], round(float(image.header.get_zooms()[2]), 4)


def volumes(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    out = folder.with_name(f"{folder.name}-out")
    out.mkdir()
    found = {"SimpleITK": (image.GetSize()[2], round(image.GetSpacing()[2], 4))}
    subprocess.run([dcm2niix.bin, "-f", "x", "-o", out, folder], capture_output=True, check=False)
    found["dcm2niix"] = nifti(next(out.glob("x*.nii")))
    try:
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            dicom2nifti.dicom_series_to_nifti(str(folder), str(out / "d.nii.gz"), reorient_nifti=False)
        found["dicom2nifti"] = nifti(out / "d.nii.gz")
    except ConversionValidationError:
        found["dicom2nifti"] = "refused"
    return found


heights = (np.arange(10) * 2.5).tolist()
expected = {
    "missing": (heights[:5] + heights[6:], [(9, 2.8125), (9, 2.5), "refused"]),
    "twice": (heights[:5] + heights[4:], [(11, 2.25), (11, 2.5), (10, 2.5)]),
    "one": (heights[:1], [(1, 1.0), (1, 2.5), "refused"]),
}
changed = []
for name, (places, seen) in expected.items():
    write_series(Path(name), places)
    found = volumes(Path(name))
    print(f"{name:8}", found)
    if list(found.values()) != seen:
        changed.append(name)
raise SystemExit(f"changed for {changed}" if changed else 0)
PYTHON
