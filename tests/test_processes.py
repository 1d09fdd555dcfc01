"""Commands that other commands run: exit codes, signals, and what a kill does to them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tf_liver.processes import run_command

PYTHON = [sys.executable, "-c"]
# Says when it is there, and which signal it got.
LISTENS = """
import pathlib, signal, sys, time
def got(number, _):
    pathlib.Path(sys.argv[1], 'got').write_text(str(number)); sys.exit(7)
signal.signal(signal.SIGINT, got); signal.signal(signal.SIGTERM, got)
pathlib.Path(sys.argv[1], 'there').touch(); time.sleep(60)
"""


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def test_exit_codes_and_signals_come_back():
    assert run_command([*PYTHON, "raise SystemExit(3)"]) == 3
    assert run_command([*PYTHON, "import os; os.kill(os.getpid(), 9)"]) == -9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_the_end_waited_for(tmp_path, number):
    def send():
        wait_for(tmp_path / "there")
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=send).start()
    with pytest.raises(KeyboardInterrupt):
        run_command([*PYTHON, LISTENS, str(tmp_path)])
    assert (tmp_path / "got").read_text() == str(int(signal.SIGTERM))
    assert signal.getsignal(number) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_killed_parent_s_command_ends_and_holds_what_it_was_given_until_then(tmp_path):
    code = f"""
import sys
from tf_liver.folds import locked
from tf_liver.processes import run_command
from pathlib import Path
with locked(Path({str(tmp_path)!r})) as lock:
    run_command([sys.executable, "-c", {LISTENS!r}, {str(tmp_path)!r}], lock)
"""
    parent = subprocess.Popen([*PYTHON, code])
    wait_for(tmp_path / "there")
    parent.kill()
    parent.wait()
    from tf_liver.folds import locked

    with locked(tmp_path):  # free only when the child has gone
        assert (tmp_path / "got").read_text() == str(int(signal.SIGTERM))
