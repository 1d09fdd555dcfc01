"""Seeded damage to DICOM series: a volume of finite numbers, or refused by name."""

import io
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tf_liver.data import DataError
from tf_liver.data.scans import read_scan

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
from pydicom.dataelem import RawDataElement  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

FIELDS = {
    **{"RescaleSlope": "DS", "RescaleIntercept": "DS", "PixelSpacing": "DS", "ImagePositionPatient": "DS"},
    **{"ImageOrientationPatient": "DS", "SliceThickness": "DS", "SpacingBetweenSlices": "DS", "NumberOfFrames": "IS"},
    **{"SeriesInstanceUID": "UI", "SeriesDescription": "LO", "Modality": "CS", "PhotometricInterpretation": "CS"},
}
NUMBERS = ["0", "1", "-1", "nan", "inf", "1e300", "-1e300", "1e-300", "x", "", "0.7", "1 2", "1,5", "\xe9", "CT"]


def a_series(rng: np.random.Generator, number: int) -> list[bytes]:
    """The files of a small valid series; one field or a few bits of one slice, or of all, may then be changed."""
    field = str(rng.choice(list(FIELDS))) if rng.random() < 0.6 else ""
    values = [str(rng.choice(NUMBERS)) for _ in range(rng.integers(1, 7))]
    damaged = set(range(number)) if rng.random() < 0.5 else {int(rng.integers(number))}
    uid, files = generate_uid(entropy_srcs=[str(rng.integers(1 << 30))]), []
    for k in range(number):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{k}"
        one.Modality, one.SeriesInstanceUID, one.SliceThickness = "CT", uid, 2.5
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 2.5 * k], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.RescaleSlope, one.RescaleIntercept = [0.7, 0.8], 1, -1024
        one.Rows, one.Columns, one.SamplesPerPixel, one.PixelRepresentation = 6, 5, 1, 0
        one.PhotometricInterpretation, one.BitsAllocated, one.BitsStored, one.HighBit = "MONOCHROME2", 16, 16, 15
        one.PixelData = rng.integers(0, 2000, (6, 5)).astype("<u2").tobytes()
        if field and k in damaged:
            tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(field))
            value = "\\".join(v for v in values if v[-3:] != "inf" or FIELDS[field] != "IS").encode("latin-1")
            value += b" " * (len(value) % 2)
            one._dict[tag] = RawDataElement(tag, FIELDS[field], len(value), value, 0, False, True)
        stream = io.BytesIO()
        one.save_as(stream, enforce_file_format=True)
        data = bytearray(stream.getvalue())
        if not field and k in damaged:
            # Behind the file's meta information, so that no other decoder than that of plain pixels is chosen.
            start = data.index(b"CS") if b"CS" in data[300:] else 300
            for _ in range(rng.integers(1, 6)):
                data[int(rng.integers(max(start, 300), len(data)))] ^= 1 << int(rng.integers(8))
        files.append(bytes(data))
    return files


def check(number: int, seed: int, folder: Path) -> Counter:
    rng, seen = np.random.default_rng(seed), Counter[str]()
    for n in range(number):
        series = folder / f"series{n}"
        series.mkdir()
        for k, data in enumerate(a_series(rng, int(rng.choice([1, 3])))):
            (series / f"{k}.dcm").write_bytes(data)
        begin = time.monotonic()
        volume, refusal = attempt(series)
        assert time.monotonic() - begin < 10, series
        if volume is None:
            assert str(series) in refusal
            seen["refused"] += 1
        else:
            assert np.isfinite(volume.voxels).all()
            assert np.isfinite(volume.affine).all()
            seen["read"] += 1
    return seen


def attempt(series):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read_scan(series), ""
        except DataError as error:
            return None, str(error)


def test_damaged_series_are_read_or_refused_by_name(tmp_path):
    seen = check(60, 1, tmp_path)
    assert seen["read"] > 5
    assert seen["refused"] > 5


@pytest.mark.slow
def test_five_hundred_more(tmp_path):
    assert sum(check(500, 2, tmp_path).values()) == 500
