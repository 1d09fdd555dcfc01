"""One file holds a training's state, whole or not at all."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_liver.experiment import ADDED
from tf_liver.state import State, StateError, difference, newest_state, read_state, remove_leftovers, save_state

FACTS = {"experiment": {"backbone": "resnet18", "window_hu": [-100.0, 250.0]}, "seed": 0}


def make(epoch, step=0, size=1000):
    rows = [{"epoch": n, "loss": 1 / (n + 1)} for n in range(epoch)]
    arrays = [np.full(size, epoch + step / 1000, np.float32), np.array(step, np.int64)]
    return State(FACTS, epoch, step, rows, 0.1, 0.7, ["conv/kernel:0", "iteration:0"], arrays)


def same(a, b):
    equal = all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a.arrays, b.arrays, strict=True))
    return equal and {**vars(a), "arrays": 0} == {**vars(b), "arrays": 0}


def test_a_state_comes_back_to_the_last_bit(tmp_path):
    state = make(2, 7)
    state.waited_s = 0.1 + 0.2
    save_state(tmp_path, state)
    assert same(newest_state(tmp_path), state)


def test_a_state_from_before_a_field_was_there_is_gone_on_with():
    """What older runs did is what the field says for them; anything else is another training."""
    state = make(1)
    names, shapes = state.names, [a.shape for a in state.arrays]
    newer = {**FACTS["experiment"], **ADDED}
    state.check({**FACTS, "experiment": newer}, names, shapes)
    with pytest.raises(StateError, match=r"experiment\.tumour_head is 'regions' there\. Received: 'classes'"):
        state.check({**FACTS, "experiment": {**newer, "tumour_head": "classes"}}, names, shapes)


def test_the_newest_two_are_kept(tmp_path):
    for epoch, step in ((0, 0), (0, 5), (0, 10), (1, 0), (9, 0), (10, 3)):
        save_state(tmp_path, make(epoch, step))
    assert sorted(p.name for p in tmp_path.iterdir()) == [make(9).file_name, make(10, 3).file_name]


@pytest.mark.parametrize("rest", ["half", "one byte less", "nothing"])
def test_rows_53_and_54_a_cut_off_state_gives_way_to_the_one_before(tmp_path, capsys, rest):
    """Weights and metadata lie in one file: whatever is cut off, both go back together, and never to epoch 0."""
    save_state(tmp_path, make(3))
    save_state(tmp_path, make(4))
    newest = tmp_path / make(4).file_name
    size = newest.stat().st_size
    os.truncate(newest, {"half": size // 2, "one byte less": size - 1, "nothing": 0}[rest])
    assert same(newest_state(tmp_path), make(3))
    assert "state-0000004-000000000.npz: damaged or cut short" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"damaged-{newest.name}", make(3).file_name]
    save_state(tmp_path, make(4))
    assert same(newest_state(tmp_path), make(4))


def test_row_54_without_a_whole_state_nothing_begins_anew(tmp_path):
    save_state(tmp_path, make(3))
    os.truncate(tmp_path / make(3).file_name, 100)
    for _ in range(2):
        with pytest.raises(StateError, match="a whole state is needed to go on"):
            newest_state(tmp_path)


def test_no_state_yet(tmp_path):
    assert newest_state(tmp_path) is None
    assert newest_state(tmp_path / "nowhere") is None


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_taken_for_a_state(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("state")
    save_state(folder, make(1, size=20))
    path = folder / make(1).file_name
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(StateError, match="damaged"):
        read_state(path)


def test_row_55_another_training_is_refused_by_name():
    other = {"experiment": {"backbone": "resnet34", "window_hu": [-100.0, 250.0]}, "seed": 0}
    shapes = [(1000,), ()]
    state = make(1)
    state.check(FACTS, ["a", "b"], shapes)
    with pytest.raises(StateError, match=r"experiment\.backbone is 'resnet18' there\. Received: 'resnet34'"):
        state.check(other, ["a", "b"], shapes)
    with pytest.raises(StateError, match=r"another network: conv/kernel:0 is \(1000,\)\. Received: a, \(999,\)"):
        state.check(FACTS, ["a", "b"], [(999,), ()])
    with pytest.raises(StateError, match=r"another network: 2 variables\. Received: 1"):
        state.check(FACTS, ["a"], shapes[:1])


def test_equal_tables_have_no_difference():
    assert difference(FACTS, {**FACTS}) is None


SAVER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_state import make
from tf_liver.state import save_state
print("go", flush=True)
for step in range(1, 10**6):
    save_state(Path(sys.argv[1]), make(0, step, size=300_000))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_row_52_killed_in_the_middle_of_saving(tmp_path, kills):
    """A process that does nothing but save is killed at random moments: each is in the middle of saving."""
    moments = random.Random(0)
    for kill in range(kills):
        folder = tmp_path / str(kill)
        process = subprocess.Popen([sys.executable, "-c", SAVER, folder], stdout=subprocess.PIPE)
        process.stdout.readline()
        while not list(folder.glob("state-*")):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.1))
        names = sorted(p.name for p in folder.glob("state-*"))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        found = newest_state(folder)
        assert found.file_name >= names[-1]
        assert same(found, make(0, found.step, size=300_000))
        assert not list(folder.glob("damaged-*"))


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    kept = ["best.weights.h5", "hashes.json", "state-000001-000000.npz"]
    for name in [*kept, *(f".abc123.{name}" for name in kept)]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
