"""Requests that TF Serving runs when it loads a version, so that no user waits for the first one."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_liver.serving.wire import MODEL_NAME, example_inputs
from tf_liver.volume.inference import BATCH_SLICES

# Where TF Serving looks (tensorflow.org/tfx/serving/saved_model_warmup).
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"


def write_warmup(model: Path, slices: np.ndarray) -> None:
    """Write a request for each signature into a SavedModel: one slice each, a whole batch for `volume`.

    slices: (B, H, W) int16 HU.

    Raises:
        ImportError: tensorflow-serving-api, whose messages these are, is not installed.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    path = model / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = example_inputs(slices[:1])
    inputs["volume"] = {"volume": np.resize(slices, (BATCH_SLICES, *slices.shape[1:]))}
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, tensors in inputs.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = MODEL_NAME, signature
            for name, value in tensors.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            file.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
