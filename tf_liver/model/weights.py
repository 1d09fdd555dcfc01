"""A look into a file of weights before Keras reads it: plain numbers, no larger than the network's, nothing else."""

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import tensorflow as tf


def check_weights(path: Path, network: tf.keras.Model) -> None:
    """Refuse a file of weights that is more than arrays of a size that this network has, as `check_arrays` does.

    State of the optimizer and the metrics, which Keras writes beside the weights, is no larger than they are.
    """
    check_arrays(path, max(math.prod(weight.shape) for weight in network.weights))


def check_arrays(path: Path, largest: int) -> None:
    """Refuse a file of weights that is more than arrays of so many numbers each.

    Keras follows links out of an HDF5 file and allocates what a shape promises, before it compares shapes.

    Raises:
        ValueError: no HDF5 file, a whole model, a link to another file or place, data kept elsewhere, no numbers, or
            more of them; the message names it.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: is no HDF5 file: {error}") from error
    with file:
        if "model_config" in file.attrs:
            raise ValueError(f"{path}: is a whole Keras model, whose layers may hold code; only weights are read")
        for name, data in _datasets(file, str(path)):
            if data.dtype.kind not in "fiu":
                raise ValueError(f"{path}: {name}: weights must be numbers. Received: {data.dtype}")
            if data.external or data.is_virtual:
                raise ValueError(f"{path}: {name}: must lie in the file itself, not in another one")
            if math.prod(data.shape) > largest:
                raise ValueError(f"{path}: {name}: larger than any weights of the network. Received: {data.shape}")


def _datasets(group: h5py.Group, path: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield all datasets below a group, without ever following a link that is not a plain one."""
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{path}: {group.name}/{key}: links are refused, they may lead out of the file")
        member = group[key]
        if isinstance(member, h5py.Group):
            yield from _datasets(member, path)
        elif isinstance(member, h5py.Dataset):
            yield member.name, member
