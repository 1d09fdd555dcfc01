"""Train, evaluate and serve liver segmentation from CT with Keras and TensorFlow."""

import os
import sys

__version__ = "0.1.0"

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError(
        "tf_liver needs Keras 2 (the package tf-keras), but TensorFlow was imported before it and has "
        "bound tf.keras to Keras 3: import tf_liver first, or set TF_USE_LEGACY_KERAS=1. "
        f"Received: TF_USE_LEGACY_KERAS={os.environ.get('TF_USE_LEGACY_KERAS')!r}"
    )

# segmentation-models 1.0.1 is written for Keras 2; TensorFlow reads this switch once, when it is imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["SM_FRAMEWORK"] = "tf.keras"
# Otherwise albumentations asks a package index for newer releases when it is imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
