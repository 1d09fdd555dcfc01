"""Several devices, and several workers, train as one device does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from small import TINY

from tf_liver import train
from tf_liver.data.pipeline import dealt
from tf_liver.state import newest_state
from tf_liver.strategy import choose_cluster

TWO_DEVICES = """
import sys
import tf_liver, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from tf_liver.train import main
sys.exit(main(sys.argv[1:]))
"""
# At this rate an untrained network's rounding does not grow into another network within two epochs.
CALM = ["--learning-rate", "1e-5", "--loss", "bce_dice", "--batch-norm-momentum", "0.8"]
CALM += ["--averaging", "0.9", "--optimizer", "adamw", "--weight-decay", "0.1", "--warmup-epochs", "0.5"]


def argv(phantoms, run, *more):
    return ["--experiment", "demo", "--data", str(phantoms), "--run", str(run), *TINY, *CALM, *map(str, more)]


def start(arguments, code=None, config=None):
    environment = {**os.environ, **({"TF_CONFIG": json.dumps(config)} if config else {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "tf_liver.train"]
    return subprocess.Popen([*command, *arguments], **pipes, env=environment)


def workers(number):
    """A TF_CONFIG for each of some workers on this machine."""
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]}
    for s in sockets:
        s.close()
    return [{"cluster": cluster, "task": {"type": "worker", "index": n}} for n in range(number)]


@pytest.fixture(scope="module")
def alone(phantoms, tmp_path_factory):
    """One device on the same global batches."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert train.main(argv(phantoms, run)) == 0
    return run


def assert_equal_rows(run, alone):
    """To float tolerance: sums are taken in another order."""
    ours, theirs = (newest_state(r / "checkpoints").rows for r in (run, alone))
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "val_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
        for name in ("dice", "mean_iou", "pixel_accuracy", "val_dice", "val_mean_iou", "val_pixel_accuracy"):
            assert a[name] == pytest.approx(b[name], abs=0.01), name


def test_batches_are_dealt_out_by_position():
    batches = tf.data.Dataset.from_tensors((np.arange(10), np.arange(10))).repeat(2)
    parts = [[i.tolist() for i, _ in dealt(batches, (n, 2), 2).as_numpy_iterator()] for n in (0, 1)]
    assert parts == [[[0, 4, 8], [2, 6]] * 2, [[1, 5, 9], [3, 7]] * 2]


def test_without_workers_their_strategy_is_refused(phantoms, tmp_path, capsys):
    assert train.main(argv(phantoms, tmp_path / "run", "--strategy", "multiworker")) == 2
    assert "needs TF_CONFIG, or SLURM's environment (srun). Received: neither" in capsys.readouterr().err
    assert train.main(["--strategy", "multiworker"]) == 2
    assert "needs --run, a folder that all workers see" in capsys.readouterr().err


def test_auto_is_one_device_where_there_is_one():
    cluster = choose_cluster("auto")
    assert (cluster.replicas, cluster.is_chief, cluster.shard) == (1, True, (0, 1))
    assert cluster.anybody([True, False]) == [True, False]


def test_slurm_says_who_the_workers_are(monkeypatch):
    from tf_liver.strategy import _resolver

    for name, value in {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[01-04]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    resolver = _resolver()
    assert resolver.cluster_spec().job_tasks("worker") == [f"node0{n}:8888" for n in (1, 2, 3, 4)]
    assert (resolver.task_type, resolver.task_id) == ("worker", 2)


@pytest.mark.slow
def test_two_devices_train_as_one(phantoms, alone, tmp_path):
    process = start(argv(phantoms, tmp_path / "run", "--strategy", "mirrored"), TWO_DEVICES)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_equal_rows(tmp_path / "run", alone)


@pytest.mark.slow
def test_two_workers_train_as_one_and_only_the_chief_writes(phantoms, alone, tmp_path):
    run = tmp_path / "run"
    processes = [start(argv(phantoms, run, "--strategy", "multiworker"), config=c) for c in workers(2)]
    outputs = [p.communicate(timeout=400) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert_equal_rows(run, alone)
    assert "epoch 2/2" in outputs[0][0]
    assert "epoch 2/2" not in outputs[1][0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_others_and_a_restart_resumes(phantoms, alone, tmp_path):
    run = tmp_path / "run"
    more = ["--strategy", "multiworker", "--save-minutes", "0.00001"]
    processes = [start(argv(phantoms, run, *more), config=c) for c in workers(2)]
    deadline = time.monotonic() + 300
    while not list((run / "checkpoints").glob("state-0000000-*[1-9].npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, err = processes[0].communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert processes[0].returncode == 1, err
    assert "another worker is gone" in err
    processes[1].communicate()
    processes = [start(argv(phantoms, run, *more[:2]), config=c) for c in workers(2)]
    outputs = [p.communicate(timeout=400) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert_equal_rows(run, alone)
