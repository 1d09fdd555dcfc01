"""The export on disk: what lies in it, and that it appears whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from small_network import small_predictor
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from tf_liver import export
from tf_liver.experiment import replace
from tf_liver.runs import Run
from tf_liver.serving import bundle, card
from tf_liver.serving.check import CheckError, check_model, dice_of, read_signatures, slices_to_check
from tf_liver.serving.loader import LoadedModel
from tf_liver.serving.wire import SIGNATURES
from tf_liver.volume.inference import BATCH_SLICES

EXPORT_SMALL = [sys.executable, str(Path(__file__).with_name("export_small.py"))]


def versions(folder):
    return sorted(p.name for p in (folder / "tf_liver").iterdir())


def test_versions_count_up_and_nothing_else_is_left(tiny, slices, tmp_path):
    predictor = small_predictor(tiny)
    assert bundle.write_bundle(predictor, tiny, tmp_path, slices[:2]).name == "1"
    assert bundle.write_bundle(predictor, tiny, tmp_path, slices[:2], version=7).name == "7"
    with pytest.raises(ValueError, match="7: this version exists; versions are never replaced"):
        bundle.write_bundle(predictor, tiny, tmp_path, slices[:2], version=7)
    assert versions(tmp_path) == ["1", "7"]


def test_numbers_that_got_taken_are_passed_over(tmp_path):
    """What two exports at once meet at the end; the slow suite has two processes."""
    for name in ("1", "2", "a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert bundle.move_to_version(tmp_path / "a", tmp_path, None).name == "3"
    with pytest.raises(ValueError, match="another export was faster"):
        bundle.move_to_version(tmp_path / "b", tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3", "b", "c"]


def test_a_failed_check_leaves_nothing(tiny, slices, tmp_path, monkeypatch):
    """The saved model answers as the project did before its weights were changed."""
    predictor = small_predictor(tiny)
    save = tf.saved_model.save

    def save_and_change(module, *args, **kwargs):
        save(module, *args, **kwargs)
        predictor.network.layers[0].bias.assign([1.0])

    monkeypatch.setattr(bundle.tf.saved_model, "save", save_and_change)
    with pytest.raises(CheckError, match="must answer as the project does"):
        bundle.write_bundle(predictor, tiny, tmp_path, slices[:2])
    assert versions(tmp_path) == []


@pytest.mark.parametrize("lost", ["variables", "saved_model.pb"])
def test_row_73_a_broken_model_fails_the_check(exported, slices, tmp_path, lost):
    model = shutil.copytree(exported, tmp_path / "model")
    gone = model / lost
    shutil.rmtree(gone) if gone.is_dir() else gone.write_bytes(b"")
    with pytest.raises(CheckError, match=r"C\+\+ loader|holds no graph"):
        check_model(model, tmp_path, slices[:1], lambda images: images)


def test_every_signature_has_a_warm_up_request_that_runs(exported):
    model, seen = LoadedModel(exported, read_signatures(exported)), []
    for record in tf.data.TFRecordDataset(str(exported / "assets.extra" / "tf_serving_warmup_requests")):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "tf_liver"
        arrays = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        inputs = {k: [bytes(b) for b in a] if a.dtype == object else a for k, a in arrays.items()}
        outputs = model.run(request.model_spec.signature_name, inputs)
        seen.append(request.model_spec.signature_name)
        count = BATCH_SLICES if seen[-1] == "volume" else 1
        assert all(len(value) == count for value in outputs.values())
    assert sorted(seen) == sorted(SIGNATURES)


def test_configuration_is_tf_servings_own(exported):
    folder = exported.parents[1]
    models = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder / "models.config").read_text(), models)
    (config,) = models.model_config_list.config
    assert config.name == exported.parent.name
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    (service,) = compose["services"].values()
    assert config.base_path == f"/models/{exported.parent.name}"
    for option in service["command"]:
        name, path = option.split("=")
        assert name in ("--model_config_file", "--monitoring_config_file")
        assert (folder / Path(path).relative_to("/models")).is_file()


def test_configuration_that_somebody_changed_stays(tiny, slices, tmp_path):
    (tmp_path / "models.config").write_text("mine")
    bundle.write_bundle(small_predictor(tiny), tiny, tmp_path, slices[:1])
    assert (tmp_path / "models.config").read_text() == "mine"
    assert (tmp_path / "compose.yaml").is_file()


def test_metadata_and_card_say_where_the_model_comes_from(trained, phantoms, tmp_path, capsys):
    run = Run.open(trained)
    copy = shutil.copytree(trained, tmp_path / "run")
    scores = {"mean": 0.9123, "sd": None, "median": 0.9}
    summary = {"checkpoint": "best", "cases": 1, "regions": {"liver": {"dice": scores}}}
    for name, checkpoint in (("evaluation", "best"), ("evaluation-last", "last")):
        (copy / name).mkdir()
        (copy / name / "summary.json").write_text(json.dumps(summary | {"checkpoint": checkpoint}))
    assert export.main([str(copy), "--output", str(tmp_path)]) == 0
    assert f"as the run does on held-out {run.read_json('split.json')['held_out'][0]}" in capsys.readouterr().out
    text = (tmp_path / "tf_liver" / "1" / "metadata.json").read_text()
    facts = json.loads(text)
    assert facts["experiment"] == json.loads(run.experiment.to_json())
    assert facts["labels"] == {"0": "background", "1": "liver"}
    assert facts["check"]["max_probability_difference"] < 1e-3
    assert list(facts["scores"]) == ["evaluation"]
    assert len(facts["data"]["sha256_of_names_and_sizes"]) == len(facts["weights_sha256"]) == 64
    dataset = json.loads((phantoms / "dataset.json").read_text())
    assert facts["data"]["licence"] == dataset.get("licence", card.NO_LICENCE)
    folder = tmp_path / "tf_liver" / "1"
    (told,) = LoadedModel(folder, read_signatures(folder)).run("describe", {"question": [b"?"]})["metadata"]
    assert json.loads(told) == {name: value for name, value in facts.items() if name != "check"}
    page = (folder / "model_card.md").read_text()
    for words in ("Not a medical device", "0.9123", "`serve_encoded`", "1 liver", facts["weights_sha256"], "RAS"):
        assert words in page
    assert str(tmp_path) not in text + page
    assert str(phantoms) not in text + page


def test_what_is_checked_when_the_scans_are_gone(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    table = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(table | {"data": str(tmp_path / "gone")}))
    opened = Run.open(run)
    slices, where = slices_to_check(opened)
    assert where == "a phantom"
    assert slices.dtype == np.int16
    facts = card.facts_of(opened, "best", "float32", xla=False)
    assert facts["data"]["sha256_of_names_and_sizes"] is None
    assert facts["data"]["licence"] == card.NO_LICENCE


def test_a_window_that_pngs_cannot_carry(tiny, slices, tmp_path):
    low = replace(tiny, window_hu=(-2000.0, 500.0))
    with pytest.raises(ValueError, match=r"serve_encoded carries HU from -1024 on\. Received: -2000"):
        bundle.write_bundle(small_predictor(low), low, tmp_path, slices[:1])
    assert not (tmp_path / "tf_liver").exists()


def test_dice_of_masks():
    assert dice_of(np.zeros(3, bool), np.zeros(3, bool)) == 1
    assert dice_of(np.array([1, 1, 0], bool), np.array([0, 1, 1], bool)) == 0.5


def run_until(folder, condition, *options):
    """Start an export in a process, kill it when the condition holds, and say whether it came to that."""
    process = subprocess.Popen([*EXPORT_SMALL, str(folder), *options], stderr=subprocess.DEVNULL)
    while process.poll() is None and not condition():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_row_72_a_killed_export_leaves_no_number(tiny, slices, tmp_path):
    """Killed when everything but the last rename is done; the next export clears away what is left."""
    assert run_until(tmp_path, lambda: list(tmp_path.glob("tf_liver/.writing-*/answers.npz")))
    assert all(name.startswith(".writing-") for name in versions(tmp_path))
    assert bundle.write_bundle(small_predictor(tiny), tiny, tmp_path, slices[:1]).name == "1"
    assert versions(tmp_path) == ["1"]


@pytest.mark.slow
def test_row_72_killed_at_many_points(tmp_path):
    """At any time and at every stage: a number that is there is a whole model, checked."""
    start = time.monotonic()
    assert subprocess.run([*EXPORT_SMALL, str(tmp_path / "whole")]).returncode == 0
    seconds, rng = time.monotonic() - start, np.random.default_rng(0)
    stages = ["", "/model", "/model/saved_model.pb", "/model/variables/variables.index", "/model/assets.extra/*"]
    stages += ["/slices.npy", "/answers.npz", "/model/metadata.json", "/model/model_card.md"]
    out = tmp_path / "out"
    moments = [lambda s=stage: list(out.glob(f"tf_liver/.writing-*{s}")) for stage in stages]
    for wait in rng.uniform(0.2, 1.1, 12) * seconds:
        moments.append(lambda end=time.monotonic, w=wait, t=[]: end() > (t or t.append(end() + w) or t)[0])
    killed = 0
    for moment in moments:
        killed += run_until(out, moment)
        for number in (p for p in out.glob("tf_liver/*") if p.name.isdigit()):
            assert (number / "metadata.json").is_file()
            assert (number / "model_card.md").is_file()
            LoadedModel(number, read_signatures(number)).close()
    assert killed >= len(stages)
    assert subprocess.run([*EXPORT_SMALL, str(out)]).returncode == 0
    assert all(name.isdigit() for name in versions(out))


@pytest.mark.slow
def test_two_exports_at_once_get_two_numbers(tmp_path):
    processes = [subprocess.Popen([*EXPORT_SMALL, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    assert versions(tmp_path) == ["1", "2", "3"]


def test_an_export_under_way_is_left_alone(tmp_path):
    with bundle.workspace(tmp_path) as first, bundle.workspace(tmp_path) as second:
        assert first.exists()
        assert second.exists()
    (tmp_path / ".writing-old").mkdir()
    with bundle.workspace(tmp_path) as third:
        assert os.listdir(tmp_path) == [third.name]
