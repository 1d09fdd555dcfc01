"""Training end to end on phantoms, and on real scans where there are some."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from small import TINY
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tf_liver import callbacks, evaluate, export, predict, train
from tf_liver.experiment import ADDED
from tf_liver.model import precision
from tf_liver.runs import Run
from tf_liver.state import newest_state, save_state


def log(run):
    with open(run / "log.csv") as file:
        return list(csv.DictReader(file))


def newest(runs):
    return Run.latest(runs).path


def test_a_run_folder_can_be_repeated_from_its_own_files(trained, phantoms):
    run = Run.open(trained)
    assert (run.experiment.name, run.experiment.epochs, run.experiment.image_size) == ("demo", 2, 32)
    facts = run.read_json("run.json")
    assert facts["data"] == str(phantoms)
    assert facts["policy"] == "float32"
    assert facts["command"].startswith("python -m tf_liver.train --experiment demo --data ")
    assert facts["device"] == "CPU: no GPU visible to TensorFlow"
    assert {"tensorflow", "segmentation-models", "numpy"} <= set(facts["versions"])
    split = run.read_json("split.json")
    assert len(split["train"]) == 3
    assert len(split["held_out"]) == 1
    assert sorted(split["patients"]) == sorted(split["train"] + split["held_out"])
    rows = log(trained)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"loss", "val_dice", "val_mean_iou", "val_pixel_accuracy", "slices_per_s", "input_wait"} <= set(rows[0])
    assert all(0 <= float(row["input_wait"]) < 1 for row in rows)
    assert list((trained / "tensorboard").rglob("*tfevents*"))
    states = ["state-0000001-000000000.npz", "state-0000002-000000000.npz"]
    weights = ["best.weights.h5", "hashes.json", "last.weights.h5"]
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == weights + states


def test_training_from_the_store_prepares_it_and_says_so(trained, phantoms, tmp_path, capsys):
    argv = ["--experiment", "demo", "--data", str(phantoms), "--runs", str(tmp_path), *TINY, "--epochs", "1"]
    argv = [a for a in argv if a != "--no-store"] + ["--prepared", str(tmp_path / "prepared")]
    assert train.main(argv) == 0
    assert "preparing 4 cases into" in capsys.readouterr().out
    assert train.main(argv) == 0
    assert "preparing 4 cases" not in capsys.readouterr().out
    runs = sorted(tmp_path.glob("demo-*"))
    # The same samples in another order than when streaming: the first losses are close, not equal.
    assert [row["loss"] for row in log(runs[0])] == [row["loss"] for row in log(runs[1])]
    assert float(log(runs[0])[0]["loss"]) == pytest.approx(float(log(trained)[0]["loss"]), rel=0.5)


@pytest.mark.slow
def test_one_seed_one_curve_another_seed_another(trained, phantoms, tmp_path):
    argv = ["--experiment", "demo", "--data", str(phantoms), "--runs", str(tmp_path), *TINY]
    for seed in ("0", "1"):
        assert train.main([*argv, "--seed", seed]) == 0
        same = [row["loss"] for row in log(newest(tmp_path))] == [row["loss"] for row in log(trained)]
        assert same == (seed == "0")


@pytest.mark.slow
def test_deterministic_gives_the_same_bits_twice(phantoms, tmp_path):
    """In processes of their own: TensorFlow cannot be told to forget it. With dropout, whose operations are others."""
    found = []
    for name in ("a", "b"):
        argv = ["--experiment", "demo", "--data", str(phantoms), "--run", str(tmp_path / name), *TINY]
        argv += ["--deterministic", "--decoder-dropout", "0.3"]
        subprocess.run([sys.executable, "-m", "tf_liver.train", *argv], check=True, capture_output=True, timeout=300)
        found.append(newest_state(tmp_path / name / "checkpoints"))
        assert Run(tmp_path / name).read_json("run.json")["deterministic"] is True
    for name, a, b in zip(found[0].names, found[0].arrays, found[1].arrays, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_evaluation_repeats_itself_and_says_what_it_did(trained, capsys, tmp_path):
    summaries = []
    for output in ("a", "b"):
        assert evaluate.main(["--runs", str(trained.parent), "--output", str(tmp_path / output)]) == 0
        summaries.append(json.loads((tmp_path / output / "summary.json").read_text()))
    out = capsys.readouterr().out
    assert f"evaluating {trained}, best checkpoint, on 1 cases" in out
    assert summaries[0] == summaries[1]
    of_liver = summaries[0]["regions"]["liver"]
    assert 0 <= of_liver["dice"]["mean"] <= 1
    with open(tmp_path / "a" / "metrics.csv") as file:
        (row,) = csv.DictReader(file)
    assert [row["case_id"]] == Run.open(trained).read_json("split.json")["held_out"]
    assert float(row["dice"]) == of_liver["dice"]["mean"]
    assert (tmp_path / "a" / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_equals_predict_and_the_reference(trained, phantoms, tmp_path):
    """The score again, from the label map that predict writes, in the scan's own storage order."""
    import nibabel as nib

    (held_out,) = Run.open(trained).read_json("split.json")["held_out"]
    scan = phantoms / "imagesTr" / f"{held_out}.nii.gz"
    assert predict.main([str(scan), "-o", str(tmp_path), "--run", str(trained)]) == 0
    assert evaluate.main([str(trained), "--output", str(tmp_path / "e")]) == 0
    prediction = np.asarray(nib.load(tmp_path / scan.name).dataobj) > 0
    reference = np.asarray(nib.load(phantoms / "labelsTr" / scan.name).dataobj) > 0
    by_hand = 2 * (prediction & reference).sum() / (prediction.sum() + reference.sum())
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["regions"]["liver"]["dice"]["mean"] == pytest.approx(by_hand)


def test_other_data_leaves_out_the_training_cases(trained, phantoms, capsys, tmp_path):
    assert evaluate.main([str(trained), "--data", str(phantoms), "--output", str(tmp_path)]) == 0
    assert "not scored" in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["cases"] == 1


@pytest.mark.slow
def test_results_of_other_data_and_checkpoints_lie_apart(trained, phantoms, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    for argv in ([], ["--checkpoint", "last"], ["--data", str(phantoms), "--checkpoint", "last"]):
        assert evaluate.main([str(run), *argv]) == 0
    found = {p.parent.name for p in run.glob("*/summary.json")}
    assert found == {"evaluation", "evaluation-last", f"evaluation-last-{phantoms.name}"}


@pytest.mark.slow
def test_a_run_keeps_its_precision_and_is_exported_in_float32_where_asked(
    trained, phantoms, tmp_path, capsys, monkeypatch
):
    """The run says auto, was trained on a machine that picked bfloat16, and meets another with AMX, as it believes."""
    monkeypatch.setattr(precision, "cpu_flags", lambda: {"amx_bf16"})
    run = shutil.copytree(trained, tmp_path / "run")
    for name, old, new in (
        ("experiment.json", '"precision": "float32"', '"precision": "auto"'),
        ("run.json", '"policy": "float32"', '"policy": "mixed_bfloat16"'),
    ):
        (run / name).write_text((run / name).read_text().replace(old, new))
    scan = str(phantoms / "imagesTr" / "phantom_00.nii.gz")
    assert predict.main([scan, "-o", str(tmp_path / "out"), "--run", str(run)]) == 0
    assert evaluate.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert f"{run}; bfloat16" in said
    assert "segmenting in bfloat16" in said
    assert export.main([str(run), "--output", str(tmp_path), "--precision", "float32"]) == 0
    model = SavedModel.FromString((tmp_path / "tf_liver" / "1" / "saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    types = {a.type for f in functions for node in f.node_def for a in node.attr.values()}
    assert tf.float32.as_datatype_enum in types
    assert tf.bfloat16.as_datatype_enum not in types


def test_ctrl_c_before_the_first_step_exits_130(phantoms, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks, "Overlays", interrupted)
    assert train.main(["--experiment", "demo", "--data", str(phantoms), "--runs", str(tmp_path), *TINY]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_a_training_too_short_for_batch_normalisation_says_so(phantoms, tmp_path, capsys):
    """At the start and with the result: its scores are those of averages that still hold what they began with."""
    line = ["--experiment", "demo", "--data", str(phantoms), "--runs", str(tmp_path), *TINY]
    assert train.main([*line, "--epochs", "1", "--batch-norm-momentum", "0.99"]) == 0
    said = capsys.readouterr()
    assert "warning: batch_norm_momentum 0.99 needs 299 steps to settle, and this training has " in said.err
    assert "at epoch 1" in said.out.splitlines()[-1]
    assert "; batch_norm_momentum 0.99 needs 299 steps" in said.out.splitlines()[-1]


@pytest.mark.slow
def test_epochs_can_be_raised_and_cosine_follows_the_new_total(trained, tmp_path, capsys):
    """A finished run says so; with more epochs it goes on where it stood, its rate on the longer curve."""
    run = shutil.copytree(trained, tmp_path / "run")
    assert train.main(["--resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert "epoch " not in out.replace("at epoch", "")
    assert train.main(["--resume", str(run), "--epochs", "4", "--max-minutes", "100"]) == 0
    rows = log(run)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[:2] == log(trained)
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[1] < 1e-4 < rates[2] > rates[3]
    assert Run(run).experiment.epochs == 4


def test_a_run_from_before_a_field_was_there_goes_on(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    table = json.loads((run / "experiment.json").read_text())
    state = newest_state(run / "checkpoints")
    for name in ADDED:
        del table[name], state.facts["experiment"][name]
    (run / "experiment.json").write_text(json.dumps(table))
    save_state(run / "checkpoints", state)
    assert train.main(["--resume", str(run)]) == 0


def test_a_folder_that_is_no_run_is_not_trained_into(tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    assert train.main(["--run", str(tmp_path)]) == 2
    assert "a new run needs an empty folder. Received: one with thesis.txt" in capsys.readouterr().err
    assert train.main(["--resume", str(tmp_path)]) == 2
    assert train.main(["--resume", str(tmp_path), "--run", str(tmp_path)]) == 2
    assert "--resume and --run: one of them" in capsys.readouterr().err


@pytest.mark.slow
def test_the_road_on_real_scans(real_data, tmp_path, capsys):
    """Train on real CT, evaluate, export and segment a scan of another size; no score is asked for here."""
    data = tmp_path / "data"
    for kind in ("imagesTr", "labelsTr"):
        (data / kind).mkdir(parents=True)
        for case in ("liver_0", "liver_1"):
            shutil.copy(real_data / "Task03_Liver" / kind / f"{case}.nii.gz", data / kind)
    runs = tmp_path / "runs"
    assert train.main(["--experiment", "window", "--data", str(data), "--runs", str(runs), *TINY]) == 0
    assert evaluate.main(["--runs", str(runs)]) == 0
    assert export.main(["--runs", str(runs), "--output", str(tmp_path / "export")]) == 0
    scan = real_data / "other" / "totalseg_example_ct_image.nii.gz"
    assert predict.main([str(scan), "-o", str(tmp_path / "out"), "--runs", str(runs)]) == 0
    import nibabel as nib

    assert nib.load(tmp_path / "out" / scan.name).shape == (122, 101, 112)
    assert sorted(os.listdir(tmp_path / "out")) == [scan.name.replace("nii.gz", "json"), scan.name]


@pytest.mark.slow
def test_the_road_with_neighbours_and_a_pretrained_encoder(phantoms, tmp_path, capsys):
    """Once trained, the file that the encoder began with is needed by nothing any more."""
    from segmentation_models.backbones.backbones_factory import Backbones

    modules = {name: getattr(tf.keras, name) for name in ("backend", "layers", "models", "utils")}
    shape, file = (None, None, 3), tmp_path / "encoder.h5"
    Backbones.get_backbone("resnet18", input_shape=shape, weights=None, include_top=False, **modules).save_weights(file)
    fields = ["--neighbours", "1", "--encoder-weights", str(file), "--offline"]
    argv = ["--experiment", "demo", "--data", str(phantoms), "--run", str(tmp_path / "run"), *TINY, "--epochs", "1"]
    assert train.main([*argv, "--encoder-weights", str(tmp_path / "nowhere.h5")]) == 2
    assert "encoder_weights: must be none, imagenet, or a file that is there" in capsys.readouterr().err
    assert train.main([*argv, *fields]) == 0
    file.unlink()
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "2", "--offline"]) == 0
    assert evaluate.main([str(tmp_path / "run")]) == 0
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "export"), "--precision", "float32"]) == 0
    card = (tmp_path / "export" / "tf_liver" / "1" / "model_card.md").read_text()
    assert "encoder_weights: encoder.h5" in card
    assert str(tmp_path) not in (tmp_path / "export" / "tf_liver" / "1" / "metadata.json").read_text()
    assert len(log(tmp_path / "run")) == 2
