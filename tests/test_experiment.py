import dataclasses
import json
import pickle

import pytest

from tf_liver import experiment
from tf_liver.experiment import ExperimentError, from_json, load, replace


def test_baseline_is_the_specification():
    baseline = load("baseline")
    assert (baseline.backbone, baseline.image_size, baseline.normalisation) == ("resnet34", 256, "clip_max")
    assert (baseline.augmentation, baseline.precision, baseline.task) == ("flip_rotate", "auto", "liver")


def test_window_differs_in_normalisation_and_loss_only():
    baseline, window = dataclasses.asdict(load("baseline")), dataclasses.asdict(load("window"))
    assert {k for k in baseline if baseline[k] != window[k]} == {"name", "normalisation", "loss"}


@pytest.mark.parametrize("name", experiment.names())
def test_every_experiment_survives_json_and_is_built(name):
    from tf_liver.model.regions import channels_of
    from tf_liver.model.unet import build_network, compile_network

    chosen = load(name)
    assert chosen.name == name
    assert from_json(chosen.to_json(), "here") == chosen
    network = build_network(chosen)
    compile_network(network, chosen, steps_per_epoch=10)
    assert network.output_shape == (None, None, None, channels_of(chosen))
    assert network.output.dtype == "float32"


def test_unknown_experiment_lists_the_names():
    with pytest.raises(ExperimentError, match=r"no 'basline'; there are: baseline, .*demo.*window"):
        load("basline")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"epochs": 0}, r"epochs: must lie in \[1, .* Received: 0"),
        ({"epochs": 2.5}, "epochs: must be of type int. Received: 2.5"),
        ({"batch_size": True}, "batch_size: must be of type int. Received: True"),
        ({"learning_rate": float("nan")}, "learning_rate: must lie in"),
        ({"image_size": 100}, "image_size: must be a multiple of 32"),
        ({"window_hu": (200, -100)}, "window_hu: low must lie below high"),
        ({"window_hu": (1, 2, 3)}, "window_hu: must be two numbers"),
        ({"loss": "mse"}, "loss: must be one of bce, dice, bce_dice, .* Received: 'mse'"),
        ({"weight_decay": 0.1}, "weight_decay: needs the optimizer adamw. Received: 'adam'"),
        ({"warmup_epochs": 50.0}, "warmup_epochs: must lie below epochs, 50. Received: 50"),
        ({"backbone": 34}, "backbone: must be a string"),
        ({"epochs": float("inf")}, r"epochs: must lie in \[1, .* Received: inf"),
        ({"learning_rate": 10**400}, "learning_rate: must lie in"),
        *(({"name": name}, "name: letters") for name in ("../x", "_x", "-x", "größe", ".", "..", "x\n", "")),
    ],
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises(ExperimentError, match=message):
        replace(load("baseline"), **changes)


def with_epochs(text):
    return load("baseline").to_json().replace(f'"epochs": {load("baseline").epochs}', f'"epochs": {text}')


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"colour": 1}', with_epochs("Infinity"), with_epochs("NaN")])
def test_bad_json_names_its_file(text):
    with pytest.raises(ExperimentError, match=r"^run/experiment\.json: "):
        from_json(text, "run/experiment.json")


def test_a_file_without_experiment_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("EXPERIMENT = 3\n")
    with pytest.raises(ExperimentError, match="must define EXPERIMENT"):
        load(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("field", "message"), [("epoch=3", "epoch: no such .* did you mean epochs"), ("epochs=3", "missing")]
)
def test_a_file_with_a_bad_field_is_named(tmp_path, field, message):
    (tmp_path / "mine.py").write_text(f"from tf_liver.experiment import Experiment\nEXPERIMENT = Experiment({field})\n")
    with pytest.raises(ExperimentError, match=rf"mine\.py: {message}"):
        load(str(tmp_path / "mine.py"))


def test_an_experiment_survives_pickle():
    assert pickle.loads(pickle.dumps(load("baseline"))) == load("baseline")


def test_an_unrelated_folder_of_experiments_hides_none_of_ours(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    source = "from tf_liver.experiment import load, replace\nEXPERIMENT = replace(load('baseline'), name='mine')\n"
    (tmp_path / "experiments" / "mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert (load("baseline").name, load("mine").name) == ("baseline", "mine")
    assert {"baseline", "mine"} <= set(experiment.names())


def test_a_file_that_is_not_ours_is_named_before_it_is_run(tmp_path, monkeypatch, capsys):
    """A stranger's folder may hold an experiments/baseline.py, and that is code."""
    path = tmp_path / "experiments" / "baseline.py"
    path.parent.mkdir()
    path.write_text("import sys\nsys.exit('it was run')\n")
    load("baseline")
    assert capsys.readouterr().err == "", "our own is not worth a word"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="it was run"):
        load("window")  # ours, which begins with the other one
    assert capsys.readouterr().err == f"running the experiment file {path}\n"


def test_runs_from_before_a_field_was_there_are_read():
    table = json.loads(load("baseline").to_json())
    for name in experiment.ADDED:
        del table[name]
    assert from_json(json.dumps(table), "old").postprocessing == "none"
