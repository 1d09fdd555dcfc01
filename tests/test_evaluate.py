"""Evaluate as users meet it: a run, label maps of other tools, two runs beside each other."""

import csv
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import stats
from small import write_nifti

from tf_liver import evaluate
from tf_liver.data.nifti import read_label
from tf_liver.volume.evaluation import read_evaluation


def run(capsys, *argv):
    """Return exit code, output and error output; one worker, where nothing else is said."""
    code = evaluate.main(["--workers", "1", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The evaluation folder of the trained run."""
    folder = tmp_path_factory.mktemp("evaluated")
    assert evaluate.main([str(trained), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def tool(phantoms, tmp_path_factory):
    """A folder of label maps as another tool might write them: the references, a voxel further to one side."""
    folder = tmp_path_factory.mktemp("tool")
    for path in sorted((phantoms / "labelsTr").iterdir()):
        label = nib.load(path)
        voxels = np.roll(np.asarray(label.dataobj), 1, axis=0).astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, label.affine), folder / path.name)
    return folder


@pytest.fixture
def copied(tool, tmp_path):
    """The tool's folder, to break."""
    return shutil.copytree(tool, tmp_path / "tool")


def test_a_run_s_evaluation_folder(trained, phantoms, evaluated):
    (held_out,) = json.loads((trained / "split.json").read_text())["held_out"]
    names = ["metrics.csv", "overlay.png", "predictions", "report.html", "summary.json"]
    assert sorted(p.name for p in evaluated.iterdir()) == names
    (row,) = rows_of(evaluated)
    assert (row["case_id"], row["region"], row["lesions_found"]) == (held_out, "liver", "")
    summary = summary_of(evaluated)
    assert (summary["run"], summary["checkpoint"], summary["liver"]) == (str(trained), "best", "whole")
    assert (summary["cases"], summary["failed"], summary["data"]) == (1, {}, str(phantoms))
    assert summary["regions"]["liver"]["dice"]["mean"] == float(row["dice"])
    (kept,) = (evaluated / "predictions").glob("*.nii.gz")
    scan, prediction = nib.load(phantoms / "imagesTr" / kept.name), nib.load(kept)
    assert (prediction.shape, prediction.get_data_dtype()) == (scan.shape, np.uint8)
    np.testing.assert_array_equal(prediction.affine, scan.affine)
    assert (evaluated / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_against_its_own_label_maps_equals_the_run_itself(trained, evaluated, tmp_path, capsys):
    code, out, err = run(capsys, trained, "--against", evaluated / "predictions", "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "on 1 cases" in out
    assert (tmp_path / "metrics.csv").read_text() == (evaluated / "metrics.csv").read_text()
    theirs, ours = summary_of(tmp_path), summary_of(evaluated)
    assert theirs.pop("predictions") == str(evaluated / "predictions")
    assert theirs == {name: value for name, value in ours.items() if name not in ("run", "checkpoint")}
    (kept,) = (tmp_path / "predictions").iterdir()
    expected = read_label(evaluated / "predictions" / kept.name)
    np.testing.assert_array_equal(read_label(kept).voxels, expected.voxels)


def test_against_needs_no_run_and_any_number_of_workers_finds_the_same(phantoms, tool, tmp_path, capsys):
    found = []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        argv = ["--against", tool, "--data", phantoms, "--output", output, "--workers", workers, "--runs", tmp_path]
        code, _, err = run(capsys, *argv)
        assert (code, err) == (0, "")
        found.append((rows_of(output), summary_of(output)))
    assert found[0] == found[1]
    rows, summary = found[0]
    assert sorted({row["region"] for row in rows}) == ["liver", "tumour"]
    assert len(rows) == 8
    by_hand = []
    for path in sorted(tool.iterdir()):
        prediction = np.asarray(nib.load(path).dataobj) > 0
        reference = np.asarray(nib.load(phantoms / "labelsTr" / path.name).dataobj) > 0
        by_hand.append(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))
    liver = summary["regions"]["liver"]["dice"]
    assert liver["mean"] == pytest.approx(np.mean(by_hand))
    assert liver["low"] < liver["mean"] < liver["high"]
    assert summary["lits"]["liver"]["dice_per_case"] == pytest.approx(np.mean(by_hand))


def test_bad_label_maps_are_named_and_the_others_scored(phantoms, copied, tmp_path, capsys):
    """One missing, one on another grid, one cut short: three lines, one case done, exit code 1."""
    (copied / "phantom_00.nii.gz").unlink()
    label = nib.load(copied / "phantom_01.nii.gz")
    write_nifti(copied / "phantom_01.nii.gz", np.asarray(label.dataobj)[:-1], label.affine)
    cut = (copied / "phantom_02.nii.gz").read_bytes()[:-9]
    (copied / "phantom_02.nii.gz").write_bytes(cut)
    code, out, err = run(capsys, "--against", copied, "--data", phantoms, "--output", tmp_path / "out", "--workers", 2)
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
    assert "case phantom_00 must have one of phantom_00.nii.gz, " in lines[0]
    assert "phantom_01.nii.gz: prediction and reference must have one shape" in lines[1]
    assert "phantom_02.nii.gz: damaged gzip stream" in lines[2]
    assert out.endswith("1 of 4 cases scored\n")
    summary = summary_of(tmp_path / "out")
    assert (summary["cases"], sorted(summary["failed"])) == (1, ["phantom_00", "phantom_01", "phantom_02"])
    assert {row["case_id"] for row in rows_of(tmp_path / "out")} == {"phantom_03"}
    assert [p.name for p in (tmp_path / "out" / "predictions").iterdir()] == ["phantom_03.nii.gz"]


def test_a_scan_that_cannot_be_shown_keeps_its_scores(phantoms, tool, tmp_path, capsys):
    data = shutil.copytree(phantoms, tmp_path / "data")
    for scan in (data / "imagesTr").iterdir():
        scan.write_bytes(scan.read_bytes()[:-9])
    code, out, err = run(capsys, "--against", tool, "--data", data, "--output", tmp_path / "out")
    assert code == 0
    assert err.count("warning: no picture of case phantom_0") == 4
    assert out.endswith("4 of 4 cases scored\n")
    assert not (tmp_path / "out" / "overlay.png").exists()


def test_against_needs_no_tensorflow(phantoms, tool, tmp_path):
    argv = ["--against", str(tool), "--data", str(phantoms), "--output", str(tmp_path)]
    code = f"import sys; from tf_liver.evaluate import main; sys.exit(main({argv!r}) or 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scoring cases") == 1


def test_nothing_scored_is_refused_and_leaves_nothing(phantoms, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, "--against", tmp_path / "empty", "--data", phantoms)
    assert code == 2
    assert err.count("must have one of") == 4
    assert out.endswith("0 of 4 cases scored\n")
    assert not list((tmp_path / "empty").iterdir())


def test_a_bad_scan_stops_no_other_one(trained, phantoms, tmp_path, capsys):
    """A run with two held-out cases, one of whose scans is cut short."""
    data, ours = shutil.copytree(phantoms, tmp_path / "data"), shutil.copytree(trained, tmp_path / "run")
    split = json.loads((ours / "split.json").read_text())
    split["held_out"].append(split["train"].pop())
    (ours / "split.json").write_text(json.dumps(split))
    facts = json.loads((ours / "run.json").read_text())
    (ours / "run.json").write_text(json.dumps({**facts, "data": str(data)}))
    broken, whole = split["held_out"]
    scan = data / "imagesTr" / f"{broken}.nii.gz"
    scan.write_bytes(scan.read_bytes()[:-9])
    code, out, err = run(capsys, ours)
    assert code == 1
    assert err.startswith(f"error: {scan}: damaged gzip stream")
    assert err.count("\n") == 1
    assert out.endswith("1 of 2 cases scored\n")
    assert list(summary_of(ours / "evaluation")["failed"]) == [broken]
    assert [row["case_id"] for row in rows_of(ours / "evaluation")] == [whole]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--against", "TOOL"], "--against: needs --data, whose cases are scored, or a run"),
        (["--against", "/nowhere", "--data", "DATA"], "--against: there is no such folder. Received: /nowhere"),
        (["--against", "TOOL", "--data", "/nowhere"], "/nowhere: there is no such data folder"),
        (["--against", "TOOL", "--data", "DATA", "--workers", "0"], "--workers: must be at least 1. Received: 0"),
        (["--against", "TOOL", "--data", "DATA", "--output", "/dev/null/x"], "Not a directory"),
        (["--compare", "TOOL", "TOOL"], "no evaluation: metrics.csv is missing"),
    ],
)
def test_refused_in_one_line(phantoms, tool, tmp_path, capsys, argv, message):
    places = {"DATA": phantoms, "TOOL": tool}
    code, _, err = run(capsys, *[places.get(a, a) for a in argv], "--runs", tmp_path)
    assert code == 2
    assert message in err
    assert not (tool / "evaluation").exists()


def test_the_liver_convention_is_an_option(phantoms, tmp_path, capsys):
    argv = ["--against", phantoms / "labelsTr", "--data", phantoms, "--output"]
    volumes = {}
    for liver in ("whole", "parenchyma"):
        assert run(capsys, *argv, tmp_path / liver, "--liver", liver)[0] == 0
        volumes[liver] = [float(row["reference_ml"]) for row in rows_of(tmp_path / liver) if row["region"] == "liver"]
    tumours = [float(row["reference_ml"]) for row in rows_of(tmp_path / "whole") if row["region"] == "tumour"]
    assert sum(tumours) > 0
    assert volumes["whole"] == pytest.approx([a + b for a, b in zip(volumes["parenchyma"], tumours, strict=True)])
    code, _, err = run(capsys, "--compare", tmp_path / "whole", tmp_path / "parenchyma")
    assert code == 2
    assert "scored against the same reference (and the same --liver)" in err


def test_compare_two_evaluations(phantoms, tool, tmp_path, capsys):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, predictions in zip(folders, (tool, phantoms / "labelsTr"), strict=True):
        assert run(capsys, "--against", predictions, "--data", phantoms, "--output", folder)[0] == 0
    code, out, err = run(capsys, "--compare", *folders)
    assert (code, err) == (0, "")
    comparison = json.loads((folders[0] / "compare.json").read_text())
    assert (comparison["first"], comparison["second"], comparison["cases"]) == (*map(str, folders), 4)
    dice = [[float(r["dice"]) for r in rows_of(folder) if r["region"] == "liver"] for folder in folders]
    test = comparison["regions"]["liver"]["dice"]
    assert test["p"] == pytest.approx(stats.wilcoxon(dice[1], dice[0]).pvalue) == pytest.approx(2 / 2**4)
    assert test["median_difference"] == pytest.approx(np.median(np.subtract(dice[1], dice[0])))
    assert not test["enough_pairs"]
    assert "lesions_found" not in comparison["regions"]["liver"]
    assert "lesions_found" in comparison["regions"]["tumour"]
    assert "too few pairs for any p below 0.05" in out


def test_row_89_a_case_whose_name_is_a_formula(phantoms, tmp_path, capsys):
    """It is none in the table, and has its own name in comparison and report."""
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for old, new in (("phantom_00", "=1+1"), ("phantom_01", "b")):
            shutil.copy(phantoms / kind / f"{old}.nii.gz", tmp_path / "data" / kind / f"{new}.nii.gz")
    argv = ["--against", tmp_path / "data" / "labelsTr", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    assert run(capsys, *argv)[0] == 0
    lines = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["case_id", "'=1+1", "'=1+1", "b", "b"]
    evaluation = read_evaluation(tmp_path / "out")
    assert {row["case_id"] for row in evaluation.rows} == {"=1+1", "b"}
    assert evaluation.prediction("=1+1").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h3>=1+1 " in page
    assert "No pictures" not in page
    assert run(capsys, "--compare", tmp_path / "out", tmp_path / "out")[0] == 0


def test_compare_finds_the_evaluations_of_runs(evaluated, tmp_path, capsys):
    runs = [tmp_path / name for name in "ab"]
    for folder in runs:
        shutil.copytree(evaluated, folder / "evaluation")
    code, out, _ = run(capsys, "--compare", *runs, "--output", tmp_path / "out")
    assert code == 0
    assert "equal" in out
    assert (tmp_path / "out" / "compare.json").is_file()
    assert "no evaluation: metrics.csv is missing" in run(capsys, "--compare", *runs, "--checkpoint", "last")[2]


def test_placeholder_spacing_is_said_on_the_screen_in_the_summary_and_in_the_report(tmp_path, capsys):
    """As `predict` says it: a reader of millilitres must know that they mean nothing."""
    rng = np.random.default_rng(0)
    for case_id, affine in (("real", np.diag([0.7, 0.8, 2.5, 1])), ("bare", np.eye(4))):
        label = np.zeros((20, 22, 6), np.uint8)
        label[5:12, 6:14, 1:5] = 1
        image = (rng.normal(0, 20, label.shape) + 100 * label).astype(np.int16)
        write_nifti(tmp_path / "data" / "imagesTr" / f"{case_id}.nii.gz", image, affine)
        write_nifti(tmp_path / "data" / "labelsTr" / f"{case_id}.nii.gz", label, affine)
    line = ["--against", tmp_path / "data" / "labelsTr", "--data", tmp_path / "data", "--output", tmp_path / "out"]
    assert evaluate.main([*map(str, line), "--workers", "1"]) == 0
    assert "placeholder spacing, so millilitres and millimetres mean nothing: bare\n" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["placeholder_spacing"] == {"bare": "identity affine with 1 mm spacing"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Millilitres and millimetres mean nothing: 1" in page
    assert "<b>bare</b>: identity affine with 1 mm spacing" in page
