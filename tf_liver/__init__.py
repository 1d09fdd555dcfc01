"""Train, evaluate and serve liver segmentation from CT with Keras and TensorFlow."""

import os
import signal
import sys

__version__ = "0.1.0"


def _leave(*_: object) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


# `python -m tf_liver.…`: runpy leaves "-m" here while it looks for the module. Nothing is at stake while modules are
# imported, some of which lose an exception or print it; `command` takes Ctrl-C over.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)

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
