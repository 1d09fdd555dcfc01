"""Commands on terminals that are not UTF-8 (row 92), and Ctrl-C while modules are imported."""

import os
import signal
import subprocess
import sys
import time

import pytest

COMMANDS = ("train", "crossval", "evaluate", "predict", "export", "phantoms", "prepare", "report", "verify", "download")
TERMINALS = {
    "ascii": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    "ascii-strict": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
}


def run(command, *argv, **environment):
    argv = [sys.executable, "-m", f"tf_liver.{command}", *map(str, argv)]
    return subprocess.run(argv, capture_output=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_a_terminal_that_is_ascii(command):
    done = run(command, "--help", **TERMINALS["ascii-strict"])
    assert done.returncode == 0, done.stderr
    assert b"usage" in done.stdout


@pytest.mark.parametrize("terminal", TERMINALS)
def test_verify_scores_on_any_terminal(phantoms, terminal):
    done = run("verify", phantoms, **TERMINALS[terminal])
    assert done.returncode in (0, 1), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
    sign = b"?" if terminal.startswith("ascii") else b"\xd7"
    assert sign in done.stdout, "× is what verify writes between sizes"


def test_a_name_that_is_no_utf_8(tmp_path):
    done = run("report", os.fsdecode(bytes(tmp_path) + b"/caf\xe9"), LC_ALL="C.UTF-8")
    assert done.returncode == 2
    assert b"caf? " in done.stderr.replace(b":", b" ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.3, 1.0, 3.0])
def test_ctrl_c_at_any_moment_of_the_start(phantoms, tmp_path, wait_s):
    argv = [sys.executable, "-m", "tf_liver.train", "--data", phantoms, "--runs", tmp_path / "runs", "--epochs", "500"]
    process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    wait_for_import(process)
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.endswith(b"interrupted\n")
    assert b"Traceback" not in said


def wait_for_import(process):
    """Wait until Python has set its handler of SIGINT, and the little that it imports before the package is in."""
    end = time.monotonic() + 20
    while not _catches(process.pid, signal.SIGINT):
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.15)


def _catches(pid, number):
    with open(f"/proc/{pid}/status") as status:
        masks = dict(line.split(":\t") for line in status.read().splitlines() if line.startswith("SigCgt"))
    return bool(int(masks["SigCgt"], 16) >> (number - 1) & 1)
