"""A run folder: what lies in it, how it is written, and which run is the latest."""

import json
import platform
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tf_liver import files
from tf_liver.experiment import Experiment, ExperimentError, from_json, replace

RUNS = Path("runs")
PACKAGES = ("tensorflow", "tf-keras", "segmentation-models", "nibabel", "numpy", "albumentations")


class RunError(ValueError):
    """A run folder that is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Run:
    """One execution of an experiment: `<runs>/<experiment>-<time>/`.

    experiment.json  the experiment with every override
    run.json         command, data folder, fold, seed, device, versions
    split.json       case_ids of training and held-out cases, and their patients
    log.csv          a row an epoch
    checkpoints/     best.weights.h5 and last.weights.h5; hashes.json with their SHA-256
    tensorboard/     event files
    evaluation/      metrics.csv, summary.json, overlay.png; evaluation-last/ and others beside it
    """

    path: Path

    @classmethod
    def create(cls, root: Path, experiment: Experiment, facts: dict[str, Any], split: dict[str, Any]) -> "Run":
        """Make a new run folder and write down what is known before training starts."""
        stem = f"{experiment.name}-{datetime.now():%Y%m%d-%H%M%S}"
        root.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *[f"-{n}" for n in range(2, 1000)]]:
            path = root / (stem + suffix)
            try:
                path.mkdir()
                break
            except FileExistsError:  # another run of the same second
                continue
        run = cls(path)
        files.write_atomic(path / "split.json", json.dumps(split, indent=2) + "\n")
        files.write_atomic(path / "run.json", json.dumps({**facts, **_versions()}, indent=2) + "\n")
        files.write_atomic(path / "experiment.json", experiment.to_json())
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Return the run in a folder.

        Raises:
            RunError: no such folder, or a file of it is missing.
        """
        if not path.is_dir():
            raise RunError(f"{path}: there is no such run folder")
        for name in ("experiment.json", "run.json", "split.json"):
            if not (path / name).is_file():
                raise RunError(f"{path}: not a run folder: {name} is missing")
        return cls(path)

    @classmethod
    def latest(cls, root: Path) -> "Run":
        """Return the run that was made last, by the modification time of its experiment.json.

        Raises:
            RunError: there is no run under `root`.
        """
        runs = sorted(root.glob("*/experiment.json"), key=lambda p: (p.stat().st_mtime_ns, p.parent.name))
        if not runs:
            raise RunError(f"{root}: there is no run yet; train one with `make train EXP=baseline` or `make demo`")
        return cls.open(runs[-1].parent)

    @property
    def experiment(self) -> Experiment:
        """The experiment as it was run, overrides included."""
        path = self.path / "experiment.json"
        return from_json(path.read_text(), str(path))

    @property
    def trained_experiment(self) -> Experiment:
        """The experiment with the precision it was trained in, whatever `auto` would pick on this machine."""
        policy = self.read_json("run.json").get("policy", self.experiment.precision)
        try:
            return replace(self.experiment, precision=policy)
        except ExperimentError as error:
            raise RunError(f"{self.path / 'run.json'}: policy: {error}") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Return one of the run's JSON files.

        Raises:
            RunError: the file is not a JSON object.
        """
        try:
            table = json.loads((self.path / name).read_text())
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path / name}: not JSON: {error}") from error
        if not isinstance(table, dict):
            raise RunError(f"{self.path / name}: must hold an object. Received: {type(table).__name__}")
        return table

    def checkpoint(self, which: str) -> Path:
        """Return where the weights `best` or `last` lie, or will lie."""
        return self.path / "checkpoints" / f"{which}.weights.h5"

    def require_checkpoint(self, which: str) -> Path:
        """Return the weights file, whose hash must be the one in checkpoints/hashes.json where a run has that file.

        Raises:
            RunError: the run has no such checkpoint, or it is not the one that the training wrote.
        """
        path = self.checkpoint(which)
        if not path.is_file():
            raise RunError(f"{self.path}: the run has no checkpoint {path.name}; did its training end in an epoch?")
        hashes = path.with_name("hashes.json")
        if hashes.exists():
            written, found = self.read_json(str(hashes.relative_to(self.path))).get(which), files.sha256(path)
            if written != found:
                raise RunError(f"{path}: must be the file that was trained, SHA-256 {written}. Received: {found}")
        return path


def require_writable(root: Path) -> None:
    """Make the folder of runs where there is none, and raise the OSError of a new file in it at once."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root):
        pass


def _versions() -> dict[str, Any]:
    """Return what a run needs to be repeated: machine, Python and package versions."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("tf_liver", *PACKAGES)},
    }
