"""A versioned SavedModel: written beside, checked, and only then moved to its number."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_liver.data.phantom import make_phantom
from tf_liver.model.predictor import SlicePredictor

MODEL_NAME = "tf_liver"
# The same graph on the same machine; what is left is the order of float32 sums.
TOLERANCE = 1e-3


def write_bundle(predictor: SlicePredictor, output: Path) -> Path:
    """Write `output/tf_liver/<N>/`, N one above the newest, and return it.

    Signature serving_default: image (B, H, W) float32 HU → probability (B, H, W) float32.

    Raises:
        RuntimeError: the reloaded model does not answer as the project does.
    """
    root = output / MODEL_NAME
    root.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(dir=root, prefix=".writing-"))
    try:
        signature = tf.function(
            lambda image: {"probability": predictor(image)},
            input_signature=[tf.TensorSpec((None, None, None), tf.float32, name="image")],
        )
        tf.saved_model.save(predictor, str(hidden), signatures={"serving_default": signature})
        smoke_test(hidden, predictor)
        hidden.chmod(0o755)
        return _move_to_next_version(hidden, root)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def smoke_test(folder: Path, predictor: SlicePredictor) -> None:
    """Load a SavedModel and compare its answer on two phantom slices with the project's own."""
    scan = make_phantom(np.random.default_rng(0)).voxels.transpose(2, 1, 0)
    images = scan[[len(scan) // 3, len(scan) // 2]].astype(np.float32)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"](image=tf.constant(images))
    apart = float(np.abs(served["probability"].numpy() - predictor(images).numpy()).max())
    if not apart <= TOLERANCE:
        raise RuntimeError(
            f"{folder}: the exported model must answer as the project does (within {TOLERANCE}). "
            f"Received: a probability {apart} apart"
        )


def _move_to_next_version(hidden: Path, root: Path) -> Path:
    """Rename the finished folder to one above the newest number; taken numbers are passed over."""
    version = max((int(p.name) for p in root.iterdir() if p.name.isdigit()), default=0) + 1
    while True:
        target = root / str(version)
        try:
            os.rename(hidden, target)
            return target
        except OSError:
            if not target.exists():
                raise
            version += 1  # another export was faster
