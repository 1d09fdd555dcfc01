"""Rows 69 to 71 of the faults: a file of weights is numbers of the network's sizes, and the file that was trained."""

import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tf_liver import evaluate, export, predict
from tf_liver.model.unet import load_network
from tf_liver.model.weights import check_arrays
from tf_liver.runs import Run

PWNED = []


@pytest.fixture
def run(trained, tmp_path):
    """A run folder of one's own, whose weights may be spoiled: without the hashes, which would refuse them first."""
    run = Run.open(shutil.copytree(trained, tmp_path / "run"))
    run.checkpoint("best").with_name("hashes.json").unlink(missing_ok=True)
    return run


def refused(run, capsys, module=export):
    """Return the one line with which a command refuses the run's weights."""
    argv = ["scan.nii", "--run"] if module is predict else []
    assert module.main([*argv, str(run.path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "best.weights.h5" in line
    return line


def any_dataset(file):
    found = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return next(name for name in found if file[name].ndim == 4)


def test_row_69_a_model_with_a_lambda_layer(run, capsys, tmp_path):
    layer = tf.keras.layers.Lambda(lambda x: PWNED.append(1) or x)
    model = tf.keras.Sequential([tf.keras.Input((4,)), layer])
    PWNED.clear()
    model.save(tmp_path / "model.h5")
    shutil.move(tmp_path / "model.h5", run.checkpoint("best"))
    assert "a whole Keras model, whose layers may hold code" in refused(run, capsys)
    assert not PWNED


def test_row_91_weights_laid_out_otherwise(run, capsys):
    with h5py.File(run.checkpoint("best"), "r+") as file:
        group = file[any_dataset(file)].parent
        name, layer = group.name, group.parent
        del layer[name]
        layer[name] = np.zeros(3, np.float32)
    assert "does not hold the weights" in refused(run, capsys)


def test_row_91_a_type_that_numpy_has_not(tmp_path):
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(2**20)
    with h5py.File(tmp_path / "odd.weights.h5", "w") as file:
        h5py.h5d.create(file.id, b"kernel", odd, h5py.h5s.create_simple((3,)))
    with pytest.raises(ValueError, match=r"odd\.weights\.h5: is no HDF5 file, or damaged: Insufficient precision"):
        check_arrays(tmp_path / "odd.weights.h5", 10)


class Trap:
    def __reduce__(self):
        return (PWNED.append, (1,))


def test_row_69_pickled_code(run, capsys):
    PWNED.clear()
    run.checkpoint("best").write_bytes(pickle.dumps(Trap()))
    assert "is no HDF5 file" in refused(run, capsys)
    with h5py.File(run.checkpoint("best"), "w") as file:
        file.create_dataset("vars/0", data=np.void(pickle.dumps(Trap())))
    assert "weights must be numbers" in refused(run, capsys)
    assert not PWNED


@pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/hostname", "/x"), h5py.SoftLink("/elsewhere")])
def test_row_70_links(run, capsys, link):
    with h5py.File(run.checkpoint("best"), "r+") as file:
        name = any_dataset(file)
        del file[name]
        file[name] = link
    assert "links are refused, they may lead out of the file" in refused(run, capsys)


def test_row_70_data_in_another_file(run, capsys, tmp_path):
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    with h5py.File(run.checkpoint("best"), "r+") as file:
        name = any_dataset(file)
        del file[name]
        file.create_dataset(name, (16,), np.float32, external=[(str(tmp_path / "secret"), 0, 64)])
    assert "must lie in the file itself" in refused(run, capsys)
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret"), "x", (4,))
    with h5py.File(run.checkpoint("best"), "r+") as file:
        del file[name]
        file.create_virtual_dataset(name, layout)
    assert "must lie in the file itself" in refused(run, capsys)


def test_row_70_a_shape_bomb(run, capsys):
    """A terabyte that takes no room in the file."""
    with h5py.File(run.checkpoint("best"), "r+") as file:
        name = any_dataset(file)
        del file[name]
        file.create_dataset(name, (1 << 18, 1 << 20), np.float32, chunks=(1, 1 << 20))
    assert "larger than any weights of the network. Received: (262144, 1048576)" in refused(run, capsys)


def test_a_shape_that_differs(run, capsys):
    with h5py.File(run.checkpoint("best"), "r+") as file:
        name = any_dataset(file)
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, data=np.zeros((shape[0] + 1, *shape[1:]), np.float32))
    assert "does not hold the weights of demo" in refused(run, capsys)


def test_row_71_weights_that_are_not_those_that_were_trained(run, capsys):
    """Where the training wrote hashes: one flipped bit is refused by every command that reads weights."""
    best = run.checkpoint("best")
    load_network(run.experiment, str(run.require_checkpoint("best")))  # a run from before has no hashes
    from tf_liver.files import sha256

    hashes = best.with_name("hashes.json")
    hashes.write_text(json.dumps({"best": sha256(best), "last": sha256(run.checkpoint("last"))}))
    assert run.require_checkpoint("best") == best
    data = bytearray(best.read_bytes())
    data[len(data) // 2] ^= 1
    best.write_bytes(data)
    for module in (export, evaluate, predict):
        assert "must be the file that was trained, SHA-256" in refused(run, capsys, module)
    hashes.write_text("{}")
    assert "SHA-256 None" in refused(run, capsys)
