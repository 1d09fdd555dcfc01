"""A real MLflow store in a folder."""

import shutil

import numpy as np
import pytest
from small import TINY

from tf_liver import train
from tf_liver.model.predictor import SlicePredictor
from tf_liver.model.unet import load_network
from tf_liver.runs import Run
from tf_liver.state import newest_state
from tf_liver.tracking import STORE, MLflow

mlflow = pytest.importorskip("mlflow")


@pytest.mark.slow
def test_the_command_writes_to_a_store_and_goes_on_there(phantoms, tmp_path):
    run, store = tmp_path / "run", tmp_path / "store"
    argv = ["--experiment", "demo", "--data", str(phantoms), "--run", str(run), *TINY, "--mlflow", str(store)]
    assert train.main([*argv, "--epochs", "1"]) == 0
    assert train.main(argv) == 0
    rows = newest_state(run / "checkpoints").rows
    client = mlflow.MlflowClient(f"sqlite:///{store / STORE}")
    (found,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert found.data.params["image_size"] == "32"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(int(r["epoch"]), r["loss"]) for r in rows]
    assert "experiment.json" in {a.path for a in client.list_artifacts(found.info.run_id)}
    assert client.search_logged_models([found.info.experiment_id])


@pytest.mark.slow
def test_a_store_holds_parameters_metrics_files_and_the_model(trained, tmp_path):
    run = Run(shutil.copytree(trained, tmp_path / "run"))
    rows = newest_state(run.path / "checkpoints").rows
    MLflow(str(tmp_path / "store"), run).on_epoch_end(0, rows[0])
    again = MLflow(str(tmp_path / "store"), run)  # as a run that is resumed does
    again.on_epoch_end(1, rows[1])
    again.finish()
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "demo"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["backbone"] == "resnet18"
    assert found.data.params["seed"] == "0"
    history = client.get_metric_history(found.info.run_id, "val_dice")
    assert [(m.step, m.value) for m in history] == [(int(r["epoch"]), r["val_dice"]) for r in rows]
    names = {a.path for a in client.list_artifacts(found.info.run_id)}
    assert {"experiment.json", "run.json", "split.json", "log.csv"} <= names
    (logged,) = client.search_logged_models([experiment.experiment_id])
    model = mlflow.pyfunc.load_model(logged.model_uri)
    assert str(model.metadata.signature.inputs.inputs[0].shape) == "(-1, -1, -1)"
    images = np.random.default_rng(0).normal(80, 60, (2, 45, 50)).astype(np.float32)
    network = load_network(run.trained_experiment, str(run.require_checkpoint("best")))
    expected = SlicePredictor(network, run.trained_experiment)(images).numpy()
    answer = model.predict(images)
    answer = next(iter(answer.values())) if isinstance(answer, dict) else answer
    np.testing.assert_allclose(answer, expected, atol=1e-6)
