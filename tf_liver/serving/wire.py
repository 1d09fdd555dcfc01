"""What travels between clients and the served model; no TensorFlow here, so that both ends can import it."""

import importlib.util
import struct
from collections.abc import Sequence

import cv2
import numpy as np

MODEL_NAME = "tf_liver"
# What a 16-bit PNG holds is HU + 1024: air is 1024 below water, and PNG knows no negative numbers.
PNG_OFFSET_HU = 1024
_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0\0\0\0IEND\xaeB`\x82"
# The signatures, as model cards and tests name them.
SIGNATURES = {
    "serving_default": "image: float32 HU (B, H, W) → probability: float32 (B, H, W), label: uint8 (B, H, W)",
    "serve_int16": "image: int16 HU (B, H, W) → probability: float32 (B, H, W), label: uint8 (B, H, W)",
    "serve_encoded": "image_bytes: 16-bit grey PNGs (B,) of HU + 1024 → label_bytes: 8-bit grey PNGs (B,)",
    "volume": "volume: int16 HU (Z, H, W), a scan or some of its slices → label: uint8 (Z, H, W)",
    "describe": "question: any string (B,) → metadata: string (B,), what metadata.json says, for clients",
}

_OF_LIVER, _OF_BOTH = "probability: float32 (B, H, W)", "probability: float32 (B, H, W, 2), of liver and of tumour"


def signatures_of(task: str) -> dict[str, str]:
    """Return the signatures as a model of this task has them."""
    return SIGNATURES if task == "liver" else {k: text.replace(_OF_LIVER, _OF_BOTH) for k, text in SIGNATURES.items()}


def require_serving_api() -> None:
    """Say what to install where TF Serving's messages are missing."""
    if importlib.util.find_spec("tensorflow_serving") is None:
        raise ValueError("tensorflow-serving-api is not installed; pip install 'tf_liver[serving]' brings it")


def encode_slices(slices: np.ndarray) -> list[bytes]:
    """Return 16-bit PNGs of HU + 1024, one a slice; HU below −1024, which scanners use as padding, become −1024.

    slices: (B, H, W) int16 HU.
    """
    values = np.maximum(slices.astype(np.int32) + PNG_OFFSET_HU, 0).astype(np.uint16)
    return [cv2.imencode(".png", value)[1].tobytes() for value in values]


def decode_labels(pngs: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """Return label maps uint8 of 8-bit grey PNGs, of shape (B, H, W).

    Raises:
        ValueError: another number of them, or not PNGs of this height and width; seen before anything is unpacked.
    """
    if len(pngs) != shape[0]:
        raise ValueError(f"there must be {shape[0]} of them. Received: {len(pngs)}")
    images = np.empty(shape, np.uint8)
    for image, png in zip(images, pngs, strict=True):
        image[...] = _decode_label(png, shape[1:])
    return images


def _decode_label(png: bytes, shape: tuple[int, ...]) -> np.ndarray:
    if len(png) < 33 or not png.startswith(_PNG_BEGIN) or not png.endswith(_PNG_END):
        raise ValueError(f"labels must be 8-bit PNGs of {shape}. Received: no whole picture")
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])  # www.w3.org/TR/png, 11.2.1
    if (height, width) != shape or (depth, colour) != (8, 0):
        kind = f"{depth} bits, colour type {colour}"
        raise ValueError(f"labels must be 8-bit PNGs of {shape}. Received: {(height, width)}, {kind}")
    try:
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"labels must be 8-bit PNGs of {shape}. Received: {error.err}") from error
    if image is None or image.shape != shape or image.dtype != np.uint8:
        raise ValueError(f"labels must be 8-bit PNGs of {shape}. Received: a damaged picture")
    return image


def example_inputs(slices: np.ndarray) -> dict[str, dict[str, np.ndarray | list[bytes]]]:
    """Return inputs of every signature for the same slices, (B, H, W) int16 HU."""
    return {
        "serving_default": {"image": slices.astype(np.float32)},
        "serve_int16": {"image": slices},
        "serve_encoded": {"image_bytes": encode_slices(slices)},
        "volume": {"volume": slices},
        "describe": {"question": [b"?"]},
    }
