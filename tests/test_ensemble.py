"""Several runs as one model, in evaluate, predict and export; and whom it may be scored on."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from crossvalidations import copied, write_crossvalidation

from tf_liver import evaluate, export, predict
from tf_liver.data.nifti import read_volume
from tf_liver.ensemble import open_runs
from tf_liver.experiment import replace
from tf_liver.runs import Run


def change(run, **changes):
    (run / "experiment.json").write_text(replace(Run.open(run).experiment, **changes).to_json())


@pytest.fixture(scope="module")
def whole(trained, phantoms, tmp_path_factory):
    """Two runs that answer differently: the second sees slices of another size, normalised otherwise."""
    folder = tmp_path_factory.mktemp("ensemble") / "whole"
    write_crossvalidation(folder, trained, phantoms)
    change(folder / "fold_1-seed_0", normalisation="clip_max", image_size=64)
    return folder


@pytest.fixture(scope="module")
def others(phantoms, tmp_path_factory):
    """Two of the phantoms under names that no run knows."""
    folder = tmp_path_factory.mktemp("others")
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir()
        for number in (0, 1):
            shutil.copy(phantoms / kind / f"phantom_0{number}.nii.gz", folder / kind / f"other_{number}.nii.gz")
    return folder


@pytest.mark.slow
def test_evaluate_and_predict_average_all_runs(whole, others, tmp_path, capsys):
    assert evaluate.main([str(whole), "--data", str(others)]) == 0
    assert f"evaluating {whole} (2 runs together), best checkpoint, on 2 cases" in capsys.readouterr().out
    found = whole / f"evaluation-{others.name}"
    summary = json.loads((found / "summary.json").read_text())
    assert (summary["run"], summary["members"]) == (str(whole), "fold_0-seed_0, fold_1-seed_0")
    argv = [str(others / "imagesTr"), "--probabilities", "-o"]
    maps = {}
    for name, folders in (("whole", [whole]), ("0", [whole / "fold_0-seed_0"]), ("1", [whole / "fold_1-seed_0"])):
        assert predict.main([*argv, str(tmp_path / name), "--run", *map(str, folders)]) == 0
        maps[name] = nib.load(tmp_path / name / "other_1-probability.nii.gz").get_fdata()
    assert np.abs(maps["0"] - maps["1"]).max() > 0.01
    np.testing.assert_allclose(maps["whole"], (maps["0"] + maps["1"]) / 2, atol=2e-5)
    mine, theirs = (nib.load(p / "other_1.nii.gz").get_fdata() for p in (tmp_path / "whole", found / "predictions"))
    np.testing.assert_array_equal(mine, theirs)


def test_held_out_cases_that_a_member_knows_are_refused(whole, capsys):
    assert evaluate.main([str(whole)]) == 2
    first, second = whole / "fold_0-seed_0", whole / "fold_1-seed_0"
    held_out = ", ".join(Run(second).read_json("split.json")["held_out"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{second}: holds out {held_out}, on which {first} was trained; give --data of patients" in line


def test_a_patient_s_other_scan_is_known_too(whole, tmp_path, capsys):
    """Another case of somebody whom the second run was trained on, held out by the first."""
    runs = [copied(whole / f"fold_{n}-seed_0", tmp_path / str(n)) for n in (0, 1)]
    for run, split in zip(
        runs,
        ({"train": ["a"], "held_out": ["b_first"]}, {"train": ["b_second"], "held_out": ["b_first"]}),
        strict=True,
    ):
        patients = {"a": "a", "b_first": "b", "b_second": "b"}
        (run / "split.json").write_text(json.dumps(split | {"patients": patients}))
    assert evaluate.main([*map(str, runs), "--output", str(tmp_path / "out")]) == 2
    assert f"{runs[0]}: holds out b_first, on which {runs[1]} was trained" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_of_one_fold_are_scored_on_it_together(whole, tmp_path, capsys):
    run = whole / "fold_0-seed_0"
    twin = copied(run, tmp_path / "twin")
    assert evaluate.main([str(run), str(twin)]) == 2
    assert "--output: several runs need one. Received: 2 runs and none" in capsys.readouterr().err
    assert evaluate.main([str(run), str(twin), "--output", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sorted(summary["patients"]) == sorted(Run(run).read_json("split.json")["held_out"])


def test_known_patients_in_other_data_are_left_out_and_named(whole, phantoms, tmp_path, capsys):
    argv = [str(whole), "--data", str(phantoms), "--output", str(tmp_path)]
    assert evaluate.main(argv) == 2
    assert "evaluation needs a case that the run was not trained on. Received: none" in capsys.readouterr().err


def test_what_cannot_answer_together(whole, tmp_path, capsys):
    run = whole / "fold_0-seed_0"
    mended = copied(run, tmp_path / "mended")
    change(mended, postprocessing="largest")
    with pytest.raises(ValueError, match=r"postprocessing must be that of .*, none\. Received: largest"):
        open_runs([run, mended], "best")
    with pytest.raises(ValueError, match=r"a run may be named once\. Received: 2 times"):
        open_runs([whole, run], "best")


@pytest.mark.slow
def test_export_holds_all_runs_in_one_model(whole, phantoms, tmp_path, capsys):
    from tf_liver.serving.check import read_signatures
    from tf_liver.serving.loader import LoadedModel

    assert export.main([str(whole), "--output", str(tmp_path), "--precision", "float32", "--checkpoint", "last"]) == 0
    assert "answered as the runs together do on held-out phantom_0" in capsys.readouterr().out
    folder = tmp_path / "tf_liver" / "1"
    facts = json.loads((folder / "metadata.json").read_text())
    assert [member["model"] for member in facts["members"]] == ["fold_0-seed_0", "fold_1-seed_0"]
    assert (facts["model"], facts["checkpoint"], "weights_sha256" in facts) == ("whole", "last", False)
    assert [member["experiment"]["image_size"] for member in facts["members"]] == [32, 64]
    card = (folder / "model_card.md").read_text()
    for member in facts["members"]:
        assert f"- {member['model']}: 2 cases of {phantoms.name}, 2 held out" in card
        assert member["weights_sha256"] in card
    scan = phantoms / "imagesTr" / "phantom_02.nii.gz"
    runs = [str(whole / member["model"]) for member in facts["members"]]
    argv = [str(scan), "--probabilities", "--checkpoint", "last", "--run", *runs, "-o", str(tmp_path / "out")]
    assert predict.main(argv) == 0
    expected = read_volume(tmp_path / "out" / "phantom_02-probability.nii.gz").slices
    image = read_volume(scan).slices.astype(np.float32)
    answer = LoadedModel(folder, read_signatures(folder)).run("serving_default", {"image": image})
    np.testing.assert_allclose(answer["probability"], expected, atol=2e-4)
