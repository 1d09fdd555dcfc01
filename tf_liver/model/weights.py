"""A look into a file of weights before Keras reads it: plain numbers, no larger than the network's, nothing else."""

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import tensorflow as tf

from tf_liver.files import irregular

# What h5py and Keras raise on a damaged file, or one laid out otherwise, without its name.
DAMAGE = (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError)
MAX_GROUPS = 10_000  # a resnet152 with its optimizer has some hundreds


class WeightsError(ValueError):
    """A file of weights that must not be read; the message names it."""


def check_weights(path: Path, network: tf.keras.Model) -> None:
    """Refuse a file of weights that is more than arrays of a size that this network has, as `check_arrays` does.

    State of the optimizer and the metrics, which Keras writes beside the weights, is no larger than they are.
    """
    check_arrays(path, max(math.prod(weight.shape) for weight in network.weights))


def check_arrays(path: Path, largest: int) -> None:
    """Refuse a file of weights that is more than arrays of so many numbers each.

    Keras follows links out of an HDF5 file and allocates what a shape promises, before it compares shapes.

    Raises:
        WeightsError: no HDF5 file, a whole model, a link to another file or place, data kept elsewhere, no numbers, or
            more of them; the message names it.
    """
    try:
        if what := irregular(path):
            raise WeightsError(f"{path}: must be a file. Received: {what}")
        with h5py.File(path, "r") as file:
            if "model_config" in file.attrs:
                raise WeightsError(f"{path}: is a whole Keras model, whose layers may hold code; only weights are read")
            for name, data in _datasets(file, path, set()):
                _check_array(data, f"{path}: {name}", largest)
    except WeightsError:
        raise
    except DAMAGE as error:
        raise WeightsError(f"{path}: is no HDF5 file, or damaged: {error}") from error


def _check_array(data: h5py.Dataset, name: str, largest: int) -> None:
    if data.dtype.kind not in "fiu":
        raise WeightsError(f"{name}: weights must be numbers. Received: {data.dtype}")
    if data.external or data.is_virtual:
        raise WeightsError(f"{name}: must lie in the file itself, not in another one")
    if math.prod(data.shape) > largest:
        raise WeightsError(f"{name}: larger than any weights of the network. Received: {data.shape}")


def _datasets(group: h5py.Group, path: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield all datasets below a group, without ever following a link that is not a plain one.

    seen: addresses of the groups that were visited. One that is met again may hold itself, and never end.
    """
    info = h5py.h5o.get_info(group.id)
    if (info.fileno, info.addr) in seen or len(seen) > MAX_GROUPS:
        raise WeightsError(f"{path}: {group.name}: a group may be there once, and {MAX_GROUPS} of them at most")
    seen.add((info.fileno, info.addr))
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise WeightsError(f"{path}: {group.name}/{key}: links are refused, they may lead out of the file")
        member = group[key]
        if isinstance(member, h5py.Group):
            yield from _datasets(member, path, seen)
        elif isinstance(member, h5py.Dataset):
            yield member.name, member
