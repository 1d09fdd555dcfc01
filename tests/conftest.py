"""Small scans for the tests, a small trained run, and the way to real scans."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from small import TINY

# Before TensorFlow: the tests compare losses bit by bit, and speak of the CPU.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tf_liver  # noqa: F401  sets the framework switches before anything imports TensorFlow
from tf_liver.data.cases import choose_split, find_cases
from tf_liver.data.phantom import write_phantoms
from tf_liver.experiment import Experiment, load, replace
from tf_liver.runs import Run

# A shell that starts the tests in the background has them ignore Ctrl-C, and their child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Task03_Liver folder of four small phantoms, each in another orientation."""
    folder = tmp_path_factory.mktemp("phantoms")
    assert len(list(write_phantoms(folder, cases=4, seed=7, size=48))) == 4
    return folder


@pytest.fixture(scope="session")
def tiny() -> Experiment:
    """An experiment small enough for a test."""
    changes = {"image_size": 32, "batch_size": 8, "epochs": 2, "precision": "float32", "batch_norm_momentum": 0.8}
    return replace(load("window"), name="tiny", backbone="resnet18", **changes)


@pytest.fixture(scope="session")
def trained(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: two epochs of the demo on the phantoms."""
    from tf_liver.train import main

    runs = tmp_path_factory.mktemp("runs")
    assert main(["--experiment", "demo", "--data", str(phantoms), "--runs", str(runs), *TINY]) == 0
    return next(runs.iterdir())


@pytest.fixture(scope="session")
def tumour_run(tiny: Experiment, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the task tumour, whose untrained network calls some of everything; not to be written to."""
    import tensorflow as tf

    from tf_liver.model.unet import build_network

    tf.keras.utils.set_random_seed(1)
    experiment = replace(tiny, task="tumour")
    split = choose_split(find_cases(phantoms), 4, 0).case_ids
    facts = {"data": str(phantoms), "policy": "float32"}
    run = Run.create(tmp_path_factory.mktemp("tumour"), experiment, facts, split)
    run.checkpoint("best").parent.mkdir()
    build_network(experiment).save_weights(run.checkpoint("best"))
    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT scans."""
    folder = os.environ.get("TF_LIVER_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TF_LIVER_REAL_DATA names no folder of real CT scans")
    return Path(folder)


@pytest.fixture(scope="session")
def evaluated(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation folder of the four phantoms with damaged references for predictions; not to be written to."""
    from evaluations import write_evaluation

    return write_evaluation(tmp_path_factory.mktemp("evaluated"), phantoms)


@pytest.fixture
def evaluation(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of it to write into or to break."""
    return shutil.copytree(evaluated, tmp_path / "evaluation")
