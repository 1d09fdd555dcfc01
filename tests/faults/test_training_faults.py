"""Rows 52 to 62 of the fault list: what ends trainings before their time. ../test_state.py has more of 52 to 55."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from small import TINY

from tf_liver import callbacks, evaluate, train
from tf_liver.model.steps import Steps
from tf_liver.runs import Run
from tf_liver.state import newest_state

EPOCHS = 2
MORE = ["--averaging", "0.9", "--optimizer", "adamw", "--weight-decay", "0.1"]
MORE += ["--warmup-epochs", "0.5", "--decoder-dropout", "0.3"]
ALWAYS = ["--save-minutes", "0.00001"]  # after every step


def argv(phantoms, run, *more):
    return ["--experiment", "demo", "--data", str(phantoms), "--run", str(run), *TINY, *more]


def child(arguments, **kwargs):
    """Start a real training."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "tf_liver.train", *map(str, arguments)], **pipes, **kwargs)


def log(run):
    with open(run / "log.csv") as file:
        return [(row["epoch"], row["loss"], row["val_dice"]) for row in csv.DictReader(file)]


def state(run):
    return newest_state(run / "checkpoints")


def assert_same_end(run, straight):
    """To the last bit: every variable, the log, and the weights that evaluate reads."""
    a, b = state(run), state(straight)
    assert (a.epoch, a.step) == (b.epoch, b.step) == (EPOCHS, 0)
    for name, x, y in zip(a.names, a.arrays, b.arrays, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)
    assert log(run) == log(straight)
    for which in ("best", "last"):
        assert weights(run, which) == weights(straight, which)


def weights(run, which):
    import h5py

    found = {}
    with h5py.File(Run(run).require_checkpoint(which)) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "dtype") else {}))
    return found


@pytest.fixture
def copied(trained, tmp_path):
    """A finished run of one's own to damage."""
    return shutil.copytree(trained, tmp_path / "run")


def test_row_56_straight_equals_interrupted(phantoms, trained, tmp_path, capsys):
    """Ended by the clock after the first step, and again in the middle of the second epoch."""
    run = tmp_path / "run"
    assert train.main(argv(phantoms, run, "--max-minutes", "0.0001")) == 0
    assert (state(run).epoch, state(run).step) == (0, 1)
    err = capsys.readouterr().err
    assert (
        f"out of time after epoch 0, step 1; the state is saved; go on with: python -m tf_liver.train --resume {run}"
        in err
    )
    assert train.main(argv(phantoms, run, *ALWAYS)) == 0  # the same command again goes on
    assert_same_end(run, trained)


def test_row_53_a_damaged_state_goes_back_to_the_one_before(phantoms, trained, copied, capsys):
    newest = max((copied / "checkpoints").glob("state-*"))
    os.truncate(newest, newest.stat().st_size // 2)
    os.truncate(Run(copied).checkpoint("last"), 1000)
    assert evaluate.main([str(copied), "--checkpoint", "last"]) == 2
    assert "must be the file that was trained" in capsys.readouterr().err
    assert train.main(["--resume", str(copied)]) == 0
    out, err = capsys.readouterr()
    assert "damaged or cut short" in err
    assert "epoch 2/2" in out
    assert "epoch 1/2" not in out
    assert_same_end(copied, trained)


@pytest.mark.parametrize("name", ["experiment.json", "run.json", "split.json"])
def test_row_54_a_run_without_its_metadata_is_refused(copied, capsys, name):
    (copied / name).unlink()
    assert train.main(["--resume", str(copied)]) == 2
    assert f"not a run folder: {name} is missing" in capsys.readouterr().err


def test_row_54_a_run_without_its_states_is_refused(copied, capsys):
    for path in (copied / "checkpoints").glob("state-*"):
        path.unlink()
    assert train.main(["--resume", str(copied)]) == 2
    assert "has been trained, but its states are gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--backbone", "resnet34"], "backbone of the run is resnet18, and stays so. Received: resnet34"),
        (["--batch-size", "4"], "batch_size of the run is 8, and stays so. Received: 4"),
        (["--experiment", "window"], "name of the run is demo, and stays so. Received: window"),
        (["--epochs", "1"], "epochs can only be raised from the run's 2. Received: 1"),
        (["--seed", "1"], "seed of the run is 0, and stays so. Received: 1"),
        (["--fold", "1"], "fold of the run is 0, and stays so. Received: 1"),
    ],
)
def test_row_55_another_experiment_is_refused_by_name(trained, capsys, change, message):
    assert train.main(["--resume", str(trained), *change]) == 2
    assert message in capsys.readouterr().err


def test_row_55_a_state_of_another_network_is_refused_by_name(phantoms, copied, capsys):
    """Somebody changed experiment.json by hand."""
    path = copied / "experiment.json"
    path.write_text(path.read_text().replace("resnet18", "resnet34"))
    assert train.main(["--resume", str(copied)]) == 2
    assert "experiment.backbone is 'resnet18' there. Received: 'resnet34'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("saving", "step", "name"), [pytest.param([], 1, "loss", marks=pytest.mark.slow), (ALWAYS, 0, "logits/bias:0")]
)
def test_row_57_a_loss_that_is_not_a_number(phantoms, tmp_path, capsys, monkeypatch, saving, step, name):
    """Poison in the weights after an epoch that was good: seen in the loss, or before they would be saved."""

    class Poison(callbacks.Overlays):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("logits").bias.assign([np.nan])

    monkeypatch.setattr(callbacks, "Overlays", Poison)
    assert train.main(argv(phantoms, tmp_path / "run", *saving)) == 1
    assert f"stopped at step {step} of epoch 2: the {name} must be finite. Received: nan" in capsys.readouterr().err
    assert len(log(tmp_path / "run")) == 1
    assert all(np.isfinite(a).all() for a in state(tmp_path / "run").arrays)
    assert evaluate.main([str(tmp_path / "run")]) == 0


@pytest.mark.slow
def test_row_59_a_reader_that_fails_in_mid_epoch_names_the_file(phantoms, tmp_path):
    """A file of prepared slices is cut short while training goes on: exit code 2, one line, no hang."""
    run, prepared = tmp_path / "run", tmp_path / "prepared"
    arguments = [a for a in argv(phantoms, run) if a != "--no-store"] + ["--prepared", prepared]
    with child([*arguments, "--epochs", 500]) as process:
        try:
            assert wait_for(process, "epoch ")
            case = Run(run).read_json("split.json")["train"][0]
            (victim,) = prepared.rglob(f"{case}.images.npy")
            os.truncate(victim, 200)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert victim.name in err


def test_row_61_out_of_memory_says_what_to_lower(phantoms, tmp_path, capsys, monkeypatch):
    """The allocator's real failure, at 4 TiB in the first step. A training that a limit starves ends so too, or in a
    fault of TensorFlow's own, which does not check all that it allocates: seen about as often as not."""

    def greedy(_, images, masks):
        much = tf.fill((2**20, tf.shape(images)[0] * 2**17), 1.0)
        tf.debugging.assert_greater(tf.reduce_sum(much), 0.0)

    monkeypatch.setattr(Steps, "_train", greedy)
    assert train.main(argv(phantoms, tmp_path / "run")) == 1
    assert "out of memory; a lower --batch-size or --image-size needs less" in capsys.readouterr().err
    assert (state(tmp_path / "run").epoch, state(tmp_path / "run").step) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_62_ctrl_c_saves_exits_130_and_resumes(phantoms, tmp_path, number):
    run = tmp_path / "run"
    process = child([*argv(phantoms, run), "--epochs", 500])
    wait_for(process, "epoch   2/500")
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    epoch, step = map(int, re.search(r"interrupted after epoch (\d+), step (\d+); the state is saved", err).groups())
    assert epoch >= 2
    assert (state(run).epoch, state(run).step) == (epoch, step)
    assert "Traceback" not in err
    assert not list((run / "checkpoints").glob(".*"))
    assert train.main(["--resume", str(run), "--max-minutes", "0.0001"]) == 0
    assert (state(run).epoch, state(run).step) > (epoch, step)


def test_two_trainings_of_one_run(trained, capsys):
    from tf_liver.plan import locked

    with locked(Run(trained)):
        assert train.main(["--resume", str(trained)]) == 2
    assert "another process is training this run" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_52_and_56_killed_twenty_times_a_run_ends_as_if_it_had_not_been(phantoms, trained, tmp_path):
    """kill −9 at random moments of a training that does little but save, until it is through."""
    run, moments = tmp_path / "run", random.Random(0)
    began, positions = 0, []
    for _ in range(20):
        process = child(argv(phantoms, run, *ALWAYS))
        if moments.random() < 0.75:  # else: while it starts
            began += wait_for(process, "run folder")
        time.sleep(moments.uniform(0, 8))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        saved = state(run) if (run / "checkpoints").exists() else None  # killed before its first state
        positions.append((saved.epoch, saved.step) if saved else (0, 0))
    assert positions == sorted(positions)
    assert train.main(argv(phantoms, run)) == 0
    assert_same_end(run, trained)
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_rows_52_and_56_averages_dropout_and_warm_up_survive_kills(phantoms, tmp_path):
    straight, run, moments = tmp_path / "straight", tmp_path / "run", random.Random(1)
    assert train.main(argv(phantoms, straight, *MORE)) == 0
    for _ in range(4):
        process = child(argv(phantoms, run, *MORE, *ALWAYS))
        assert wait_for(process, "run folder")
        time.sleep(moments.uniform(3, 9))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert train.main(argv(phantoms, run, *MORE)) == 0
    assert_same_end(run, straight)
    names = state(run).names
    assert names.count("logits/bias:0") == 2  # the weight and its average, which is what is evaluated
    last = [a for name, a in zip(names, state(run).arrays, strict=True) if name == "logits/bias:0"]
    assert last[1].tobytes() in weights(run, "last").values()
    assert last[0].tobytes() not in weights(run, "last").values()


def wait_for(process, beginning):
    """Read a training's lines up to one; return whether it came."""
    return any(line.startswith(beginning) for line in process.stdout)
