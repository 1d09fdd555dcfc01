"""The command crossval: what it asks of others, what it goes on with, and what it makes of the scores."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from crossvalidations import copied, write_crossvalidation
from small import TINY

from tf_liver import crossval, evaluate, files
from tf_liver.fold_work import Work
from tf_liver.folds import CrossValidation, Member, locked, opened_as_runs
from tf_liver.runs import Run, RunError
from tf_liver.volume.intervals import mean_interval


@pytest.fixture(scope="module")
def scored(trained, phantoms, tmp_path_factory):
    """A cross-validation whose two runs are trained and scored."""
    whole = write_crossvalidation(tmp_path_factory.mktemp("crossval") / "whole", trained, phantoms)
    for member in whole.members:
        run = whole.run(member)
        assert evaluate.main([str(run.path), "--checkpoint", "last", "--workers", "1"]) == 0
        whole.note_scored(member.name, "evaluation-last", f"{files.sha256(run.checkpoint('last'))} ")
    return whole.path


@pytest.fixture
def whole(scored, tmp_path):
    """A copy to change."""
    return CrossValidation.open(copied(scored, tmp_path / "whole"))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(capsys, *argv):
    code = crossval.main([*map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_case_is_scored_once_as_its_own_run_scored_it(scored, phantoms, capsys):
    code, out, err = run(capsys, "--run", scored, "--workers", 1)
    assert (code, err) == (0, "")
    rows = rows_of(scored / "evaluation-last" / "crossval.csv")
    assert sorted(row["case_id"] for row in rows) == [f"phantom_0{n}" for n in range(4)]
    for row in rows:
        own = rows_of(scored / f"fold_{row['fold']}-seed_{row['seed']}" / "evaluation-last" / "metrics.csv")
        (same,) = [one for one in own if one["case_id"] == row["case_id"]]
        assert {**same, "seed": "0", "fold": row["fold"]} == row
    summary = json.loads((scored / "evaluation-last" / "summary.json").read_text())
    dice = [float(row["dice"]) for row in rows]
    found = summary["regions"]["liver"]["dice"]
    assert (found["mean"], found["sd"]) == (pytest.approx(np.mean(dice)), pytest.approx(np.std(dice, ddof=1)))
    assert (found["low"], found["high"], found["patients"]) == (*mean_interval(np.array(dice), (0, 1)), 4)
    assert (summary["checkpoint"], summary["cases"], summary["failed"]) == ("last", 4, {})
    assert f"mean Dice {np.mean(dice):.4f} over 4 cases; SD" in out
    assert (scored / "evaluation-last" / "seed_0" / "report.html").is_file()
    assert evaluate.main(["--compare", str(scored), str(scored), "--checkpoint", "last"]) == 0
    assert "4 cases" in capsys.readouterr().out


def test_two_seeds_are_averaged_by_case_and_their_spread_is_said(whole, capsys):
    """The second seed is the first one with one run's label maps emptied."""
    whole.table["seeds"].append(1)
    for member in whole.members[:2]:
        twin = Member(member.fold, 1)
        copied(whole.path / member.name, whole.path / twin.name)
        whole.table["runs"][twin.name] = whole.table["runs"][member.name]
    whole.save()
    emptied = whole.path / "fold_1-seed_1" / "evaluation-last" / "predictions"
    for path in emptied.glob("*.nii.gz"):
        label_map = nib.load(path)
        nib.save(nib.Nifti1Image(np.zeros(label_map.shape, np.uint8), label_map.affine), path)
    code, out, _ = run(capsys, "--run", whole.path)
    assert code == 0
    rows = rows_of(whole.path / "evaluation-last" / "crossval.csv")
    means = [np.mean([float(row["dice"]) for row in rows if row["seed"] == seed]) for seed in "01"]
    assert [float(row["dice"]) for row in rows if (row["seed"], row["fold"]) == ("1", "1")] == [0, 0]
    summary = json.loads((whole.path / "evaluation-last" / "summary.json").read_text())
    spread = summary["seeds"]["liver"]["dice"]
    assert spread["means"] == {"0": pytest.approx(means[0]), "1": pytest.approx(means[1])}
    assert spread["sd"] == pytest.approx(np.std(means, ddof=1))
    assert summary["regions"]["liver"]["dice"]["mean"] == pytest.approx(np.mean(means))
    assert summary["regions"]["liver"]["hd95_mm"]["undefined"] == 2  # there is no distance to nothing, in one seed
    assert f"SD from seed to seed {spread['sd']:.4f}" in out


@pytest.mark.slow
def test_a_fold_that_fails_is_named_and_the_others_are_scored(whole, capfd):
    """Its weights are damaged: evaluate refuses them."""
    weights = whole.path / "fold_1-seed_0" / "checkpoints" / "last.weights.h5"
    weights.unlink()
    weights.write_bytes(b"no weights")
    assert crossval.main(["--run", str(whole.path)]) == 1
    said = capfd.readouterr()
    assert "error: " in said.err
    assert "fold_1-seed_0" in said.err
    summary = json.loads((whole.path / "evaluation-last" / "summary.json").read_text())
    assert list(summary["failed"]) == ["fold_1-seed_0"]
    assert set(summary["patients"]) == set(whole.held_out(0))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning-rate", "0.5"], "learning_rate of the run is 0.001, and stays so. Received: 0.5"),
        (["--epochs", "1"], "epochs can only be raised from the run's 2. Received: 1"),
        (["--seeds", "1"], "its seeds stay, others may be added"),
        (["--seeds", "-1"], "--seeds: must lie in [0, 4294967295]. Received: -1"),
        (["--also", "/nowhere"], "/nowhere: there is no such data folder"),
        (["--checkpoint", "first"], "invalid choice"),
    ],
)
def test_what_must_stay_stays(scored, capsys, argv, message):
    try:
        code = crossval.main(["--run", str(scored), *argv])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_other_cases_are_another_cross_validation(whole, phantoms, tmp_path, capsys):
    data = shutil.copytree(phantoms, tmp_path / "data")
    for kind in ("imagesTr", "labelsTr"):
        shutil.copy(data / kind / "phantom_00.nii.gz", data / kind / "phantom_09.nii.gz")
    (data / "dataset.json").unlink(missing_ok=True)
    code, _, err = run(capsys, "--run", whole.path, "--data", data)
    assert code == 2
    assert "who is held out when must be as it was. Received: a difference in phantom_" in err


def test_a_folder_that_is_none_is_not_worked_in(tmp_path, phantoms, capsys):
    (tmp_path / "thesis.txt").touch()
    code, _, err = run(capsys, "--run", tmp_path, "--data", phantoms)
    assert code == 2
    assert "a new cross-validation needs an empty folder. Received: one with thesis.txt" in err
    assert os.listdir(tmp_path) == ["thesis.txt"]
    with pytest.raises(RunError, match="not a run folder"):
        opened_as_runs(tmp_path)


def test_more_epochs_are_not_trained_yet(whole):
    member = whole.members[0]
    assert whole.is_trained(member)
    whole.table["experiment"]["epochs"] += 1
    assert not whole.is_trained(member)
    whole.save()
    with pytest.raises(RunError, match=r"goes on\. Missing: fold_0-seed_0, fold_1-seed_0"):
        opened_as_runs(whole.path)


def test_a_session_that_was_killed_counts_to_its_last_file(whole):
    member = whole.members[0]
    entry = whole.table["runs"][member.name]
    for path in (whole.path / member.name / "checkpoints").iterdir():
        os.utime(path, (1060, 1060))
    entry["sessions"] = [[1000, None]]
    with pytest.raises(RunError), whole.training(member):
        raise RunError("failed")
    assert entry["sessions"][0] == [1000, 1060]
    assert whole.minutes(member) == pytest.approx(1, abs=0.1)
    assert whole.is_trained(member)  # it was; the failed session takes nothing back


def test_one_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="another process works on this"), locked(tmp_path, 0.2):
        pass
    with locked(tmp_path, 0):
        pass


def test_who_interrupts_it_is_told_the_whole_line_that_goes_on(phantoms, tmp_path, capsys, monkeypatch):
    """With what is scored beside it, and with the folder that was made."""

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "train_and_score", interrupted)
    argv = ["--experiment", "demo", "--data", str(phantoms), "--folds", "2", "--also", str(phantoms)]
    assert crossval.main([*argv, "--runs", str(tmp_path)]) == 130
    (made,) = tmp_path.iterdir()
    expected = f"go on with: python -m tf_liver.crossval {' '.join(argv)} --runs {tmp_path} --run {made}"
    assert expected in capsys.readouterr().err
    assert crossval.main([*argv, "--run", str(made)]) == 130
    assert f"go on with: python -m tf_liver.crossval {' '.join(argv)} --run {made}\n" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_many_points_and_gone_on_with(phantoms, tmp_path):
    """Kills of the command alone: what it had started saves its state, and the same line goes on to the end."""
    argv = [sys.executable, "-m", "tf_liver.crossval", "--experiment", "demo", "--data", str(phantoms), *TINY]
    argv += ["--folds", "2", "--run", str(tmp_path / "cv"), "--also", str(phantoms)]
    rng, kills = np.random.default_rng(0), 0
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            out, _ = process.communicate(timeout=float(rng.uniform(5, 25)) if kills < 4 else None)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills > 1
    # Other data that every run knows half of, and all together know wholly: that alone fails.
    assert process.returncode == 1, out
    summary = json.loads((tmp_path / "cv" / "evaluation-last" / "summary.json").read_text())
    assert (summary["cases"], list(summary["failed"])) == (4, ["together"])
    assert all(minutes > 0 for minutes in summary["minutes"].values())
    for fold in (0, 1):
        log = rows_of(tmp_path / "cv" / f"fold_{fold}-seed_0" / "log.csv")
        assert [row["epoch"] for row in log] == ["0", "1"]
    assert Run.open(tmp_path / "cv" / "fold_1-seed_0").experiment.folds == 2
    # What is trained and scored is not touched again.
    whole = tmp_path / "cv"
    kept = [
        whole / f"fold_{fold}-seed_0" / name for fold in (0, 1) for name in ("log.csv", "evaluation-last/metrics.csv")
    ]
    before = [path.stat().st_mtime_ns for path in kept], CrossValidation.open(whole).table["runs"]
    assert subprocess.run(argv, capture_output=True).returncode == 1
    assert ([path.stat().st_mtime_ns for path in kept], CrossValidation.open(whole).table["runs"]) == before
