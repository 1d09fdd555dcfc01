"""A training in an MLflow store: parameters, metrics, files, and the model with its signature."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_liver import files
from tf_liver.model.predictor import SlicePredictor
from tf_liver.model.unet import load_network
from tf_liver.runs import Run

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

STORE = "mlflow.db"
_FILES = ("experiment.json", "run.json", "split.json", "log.csv")
_LINK = "mlflow.json"


class MLflow(tf.keras.callbacks.Callback):
    """Tells an MLflow store each epoch's row; a run that goes on goes on there too.

    store: a folder, which then holds an SQLite file and the artefacts, or the address of a store.

    Raises:
        ValueError: the extra `mlflow` is not installed.
    """

    def __init__(self, store: str, run: Run) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ValueError(f"--mlflow: needs `pip install 'tf_liver[mlflow]'`. Received: {error}") from error
        super().__init__()
        self._run, self._mlflow = run, mlflow
        artefacts = None
        if ":" not in store:  # MLflow 3 has left its own folders of files for databases
            folder = Path(store).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            store, artefacts = f"sqlite:///{folder / STORE}", (folder / "artefacts").as_uri()
        mlflow.set_tracking_uri(store)
        self._client = mlflow.MlflowClient(store)
        self._id = self._linked(store) or self._begin(store, artefacts)

    def _linked(self, store: str) -> str | None:
        """Return the id that the run has in this store from before."""
        if not (self._run.path / _LINK).is_file():
            return None
        link = self._run.read_json(_LINK, dict[str, str], ("id", "store"))
        return link["id"] if link["store"] == store else None

    def _begin(self, store: str, artefacts: str | None) -> str:
        name = self._run.experiment.name
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, artefacts)
        own = self._client.create_run(experiment, run_name=self._run.path.name).info.run_id
        facts = self._run.facts
        for key, value in {**asdict(self._run.experiment), "fold": facts["fold"], "seed": facts["seed"]}.items():
            self._client.log_param(own, key, value)
        files.write_atomic(self._run.path / _LINK, json.dumps({"store": store, "id": own}) + "\n")
        return own

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        for name, value in logs.items():
            if name != "epoch":
                self._client.log_metric(self._id, name, value, step=epoch)

    def finish(self) -> None:
        """Add the run's files, and its best weights as a model that takes HU slices."""
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        for name in _FILES:
            self._client.log_artifact(self._id, str(self._run.path / name))
        experiment = self._run.trained_experiment
        network: Any = load_network(experiment, str(self._run.require_checkpoint("best")))
        slices = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1))])
        of_both = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1, 2))])  # liver and tumour
        with self._mlflow.start_run(run_id=self._id):
            self._mlflow.tensorflow.log_model(
                SlicePredictor(network, experiment),
                name="model",
                signature=ModelSignature(slices, of_both if experiment.task == "tumour" else slices),
                pip_requirements=[f"tensorflow=={self._run.facts['versions']['tensorflow']}"],
            )
