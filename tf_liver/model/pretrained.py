"""Encoders that were trained on ImageNet, for a network that sees grey slices.

An encoder trained on colour is asked with three channels, which are equal for a grey slice: it gives exactly the
features of the three-channel network. Summing its first kernel over RGB would give them only where nothing comes
before it, and the ResNets of segmentation_models normalise each colour by itself and pad with zeros after that.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver.experiment import Experiment, ExperimentError
from tf_liver.model.weights import DAMAGE, check_arrays

with contextlib.redirect_stdout(io.StringIO()):  # it announces its framework on import
    import segmentation_models

NONE, IMAGENET = "none", "imagenet"
COLOURS = 3
LARGEST = 2**24  # numbers in one array of a file; the largest of any encoder has 5 million


class Colours(tf.keras.layers.Layer):
    """Slices in [0, 1] as the pictures that an encoder was trained on: three channels, in its own range and order.

    Of 2.5-D's neighbours red is the mean of the slices below, green the slice itself and blue the mean of those above;
    with more than one on each side the mixture is learnt on. Equal neighbours give what a single slice gives.
    """

    def __init__(self, backbone: str, neighbours: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._backbone, self._neighbours = backbone, neighbours

    def build(self, _: Any) -> None:
        """Make the mixture: kernel (2n + 1, 3) and bias (3,)."""
        kernel, bias = _preprocessing(self._backbone)
        kernel = (_mixture(self._neighbours) @ kernel).astype(np.float32)
        learnt = self._neighbours > 1
        constant = tf.keras.initializers.Constant
        self.kernel = self.add_weight("kernel", kernel.shape, initializer=constant(kernel), trainable=learnt)
        self.bias = self.add_weight("bias", bias.shape, initializer=constant(bias), trainable=learnt)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """(B, H, W, 2n + 1) → (B, H, W, 3)."""
        return tf.tensordot(images, self.kernel, 1) + self.bias

    def get_config(self) -> dict[str, Any]:
        """Return what makes this layer again."""
        return {**super().get_config(), "backbone": self._backbone, "neighbours": self._neighbours}


def _mixture(neighbours: int) -> np.ndarray:
    """Return how much of each slice is in red, green and blue: (2n + 1, 3), columns that sum to 1."""
    if not neighbours:
        return np.ones((1, COLOURS))
    below = np.eye(1, COLOURS, 0).repeat(neighbours, axis=0) / neighbours
    return np.concatenate([below, np.eye(1, COLOURS, 1), np.roll(below, 2, axis=1)])


def _preprocessing(backbone: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what the library does to an encoder's pictures, for colours in [0, 1]: kernel (3, 3), bias (3,) float32.

    Asked of its NumPy form: the one for tensors keeps the first mean that it was ever called with.
    """
    dots = np.concatenate([np.zeros((1, COLOURS)), 255 * np.eye(COLOURS)]).reshape(1, 1, -1, COLOURS)
    answers = np.asarray(segmentation_models.get_preprocessing(backbone)(dots), np.float32)[0, 0]
    return answers[1:] - answers[0], answers[0]


def with_colours(
    network: tf.keras.Model, experiment: Experiment, copied: Callable[[tf.keras.layers.Layer], tf.keras.layers.Layer]
) -> tf.keras.Model:
    """Return a copy of a functional model of three-channel pictures as one of slices: (B, H, W, 2n + 1).

    copied: gives a fresh layer for each one, as of `clone_model`, which cannot put anything before the first.
    """
    image = tf.keras.Input((None, None, 2 * experiment.neighbours + 1), name="image")
    colours = Colours(experiment.backbone, experiment.neighbours, name="colours", dtype="float32")
    made = {id(network.input): colours(image)}
    for layer in network.layers[1:]:  # sorted by depth
        (node,) = layer.inbound_nodes
        arguments = (node.call_args, node.call_kwargs)
        args, kwargs = tf.nest.map_structure(lambda value: made.get(id(value), value), arguments)
        made[id(node.outputs)] = copied(layer)(*args, **kwargs)
    return tf.keras.Model(image, made[id(network.output)])


@contextmanager
def encoder_weights(experiment: Experiment, offline: bool = False) -> Iterator[str]:
    """Give what segmentation_models is to be called with for the weights that the experiment begins with.

    offline: never ask the network.

    Raises:
        ExperimentError: no such file, or not of this encoder; or, of imagenet's, which file is needed and where.
    """
    name = experiment.encoder_weights
    if name != IMAGENET and not Path(name).is_file():
        raise ExperimentError(f"encoder_weights: must be none, imagenet, or a file that is there. Received: {name}")
    try:
        if name != IMAGENET:
            check_arrays(Path(name), LARGEST)
        with _files_of_ours(offline):
            yield name
    except ExperimentError:
        raise
    except DAMAGE as error:
        rule = f"encoder_weights: {name} must hold {experiment.backbone} without its top"
        raise ExperimentError(f"{rule}. Received: {' '.join(str(error).split())}") from error


@contextmanager
def _files_of_ours(offline: bool) -> Iterator[None]:
    """Let the library take files from Keras' folder where they are whole, and else say what is missing, and where."""
    fetch: Callable[..., str] = tf.keras.utils.get_file
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()

    def get_file(name: str, origin: str, cache_subdir: str = "datasets", **hashes: str) -> str:
        place, expected = home / cache_subdir / name, next(filter(None, hashes.values()), "")
        kind = {32: "md5", 64: "sha256", 0: ""}[len(expected)]
        if place.is_file() and _digest(place, kind) == expected:
            return str(place)
        try:
            if offline:
                raise OSError("--offline")
            return fetch(name, origin, cache_subdir=cache_subdir, cache_dir=str(home), **hashes)
        except Exception as error:  # what urllib, the disk and Keras' own check of the hash raise
            state = "there is another file" if place.is_file() else "there is none"
            hashed = f"{kind.upper()} {expected}" if expected else "whose hash the library does not know"
            raise ExperimentError(
                f"encoder_weights: imagenet needs {name} from {origin}, {hashed}, "
                f"to be put at {place}, where {state}. Received: {' '.join(str(error).split())}"
            ) from error

    tf.keras.utils.get_file = get_file
    try:
        yield
    finally:
        tf.keras.utils.get_file = fetch


def _digest(path: Path, kind: str) -> str:
    """Return a file's hash; "" where no kind is known, as of MobileNet's."""
    if not kind:
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
