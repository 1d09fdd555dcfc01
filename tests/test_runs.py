"""The hashes of a run's weights, whenever writing them is cut off."""

import json

import pytest

from tf_liver import files
from tf_liver.files import sha256
from tf_liver.runs import Run, RunError


def write(run, which, text):
    with run.replacing_checkpoint(which) as beside:
        beside.write_text(text)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    write(run, "best", "first")
    write(run, "last", "other")
    return run


def test_each_checkpoint_has_its_hash(run):
    table = json.loads((run.path / "checkpoints" / "hashes.json").read_text())
    assert table == {which: sha256(run.checkpoint(which)) for which in ("best", "last")}
    assert run.require_checkpoint("best") == run.checkpoint("best")


def test_other_weights_are_refused(run):
    run.checkpoint("last").write_text("foreign")
    with pytest.raises(
        RunError, match=r"last\.weights\.h5: must be the file that was trained, SHA-256 \w{64}\. Received: "
    ):
        run.require_checkpoint("last")


def test_a_run_from_before_the_hashes_is_read(run):
    (run.path / "checkpoints" / "hashes.json").unlink()
    assert run.require_checkpoint("best").read_text() == "first"


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_cut_off_between_any_two_renames_the_run_stays_readable(run, monkeypatch, renames):
    """Files change by renames alone: hashes, weights, hashes. SystemExit in place of the next is a kill."""
    done, rename = [], files.os.replace

    def counted(*paths):
        if len(done) == renames:
            raise SystemExit
        done.append(rename(*paths))

    monkeypatch.setattr(files.os, "replace", counted)
    with pytest.raises(SystemExit):
        write(run, "best", "second")
    monkeypatch.undo()
    assert run.require_checkpoint("best").read_text() == ("first" if renames < 2 else "second")
    write(run, "best", "third")
    assert run.require_checkpoint("best").read_text() == "third"
    assert json.loads((run.path / "checkpoints" / "hashes.json").read_text())["best"] == sha256(run.checkpoint("best"))
