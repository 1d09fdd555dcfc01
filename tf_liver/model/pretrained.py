"""Encoders that were trained on ImageNet, for a network that sees grey slices.

An encoder trained on colour is asked with three equal channels: a grey slice then gives exactly the features of the
three-channel network. Summing the first kernel over RGB would give the same only where nothing comes before it: the
ResNets of segmentation_models normalise each colour by itself and pad with zeros after that.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import segmentation_models
import tensorflow as tf

from tf_liver.experiment import ExperimentError

NONE, IMAGENET = "none", "imagenet"


class GreyToColour(tf.keras.layers.Layer):
    """A slice in [0, 1] as the picture that an encoder was trained on: three equal channels, in its own range."""

    def __init__(self, backbone: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._backbone = backbone
        self._preprocess = segmentation_models.get_preprocessing(backbone)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """(B, H, W, 1) → (B, H, W, 3)."""
        return self._preprocess(tf.repeat(images * 255, 3, axis=-1))

    def get_config(self) -> dict[str, Any]:
        """Return what makes this layer again."""
        return {**super().get_config(), "backbone": self._backbone}


@contextmanager
def encoder_file(weights: str, offline: bool) -> Iterator[None]:
    """Let segmentation_models take an encoder's weights from a file of ours, or from its cache, or from its address.

    weights: "imagenet", or the path of an .h5 file with weights of the same encoder without its top.
    offline: never ask the network.

    Raises:
        ExperimentError: no such file; or, without a network, which file is needed, its hash, and where to put it.
    """
    fetch = tf.keras.utils.get_file

    def get_file(name: str, origin: str, *_: Any, cache_subdir: str = "datasets", **hashes: Any) -> str:
        if weights != IMAGENET:
            if not Path(weights).is_file():
                raise ExperimentError(f"encoder_weights: there is no such file. Received: {weights}")
            return weights
        place = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / cache_subdir / name
        expected = next((str(value) for value in hashes.values() if value), "unknown")
        try:
            if offline and not place.is_file():
                raise OSError("--offline")
            return fetch(name, origin, cache_subdir=cache_subdir, **hashes)
        except Exception as error:  # what urllib, the disk and Keras' own check of the hash raise
            raise ExperimentError(
                f"encoder_weights: {name} could not be fetched from {origin}: {error}. "
                f"Put the file there by hand: {place}, hash {expected}"
            ) from error

    with mock.patch.object(tf.keras.utils, "get_file", get_file):
        yield
