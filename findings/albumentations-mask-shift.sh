#!/usr/bin/env bash
# albumentations 2.0.8 `Resize` shifts masks against their images: by 0.5 pixels from 512 to 256, by 1.5 from 512 to 128.
# It takes cv2.INTER_NEAREST for masks, which samples the corner of each target pixel; images are sampled at its centre.
# A liver moves by over a millimetre, on every slice and to the same side, so no score on resized masks shows it.
# cv2.INTER_NEAREST_EXACT (`mask_interpolation=`) is 0.5 source pixels off at even ratios, to the other side, and no more
# than that at any size. Seen on 2026-11-27 with OpenCV 5.0.0.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 albumentations==2.0.8 opencv-python-headless==5.0.0.93
environment/bin/python - <<'PYTHON'
import albumentations as A
import cv2
import numpy as np

y, x = np.mgrid[:512, :512]
image = ((x - 260.3) ** 2 + (y - 243.1) ** 2 < 60**2).astype(np.float32)


def centre(picture, size):
    """Column and row of the centre of mass, in pixels of the large grid."""
    rows, columns = np.mgrid[:size, :size]
    weights = picture.astype(float) / picture.sum(dtype=float)
    return [((grid * weights).sum() + 0.5) * 512 / size - 0.5 for grid in (columns, rows)]


wrong = []
for size in (256, 128):
    for name, options in (("default", {}), ("exact", {"mask_interpolation": cv2.INTER_NEAREST_EXACT})):
        out = A.Resize(size, size, **options)(image=image, mask=image.astype(np.uint8))
        shift = np.subtract(centre(out["mask"], size), centre(out["image"], size))
        print(f"512 to {size}, {name:7}: the mask lies {np.round(shift, 2)} pixels of 512 from the image")
        expected = 512 / size / 2 - 0.5 if name == "default" else -0.5
        if np.abs(shift - expected).max() > 0.35:
            wrong.append((size, name))
raise SystemExit(f"changed for {wrong}" if wrong else 0)
PYTHON
