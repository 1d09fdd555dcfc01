"""A run folder: what lies in it, how it is written, and which run is the latest."""

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tf_liver import files
from tf_liver.experiment import Experiment, ExperimentError, from_json, replace

RUNS = Path("runs")
HASHES = "hashes.json"
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
    checkpoints/     best.weights.h5, last.weights.h5 and their hashes.json; state-….npz to go on from
    tensorboard/     event files
    evaluation/      metrics.csv, summary.json, overlay.png; evaluation-last/ and others beside it
    """

    path: Path

    @classmethod
    def create(
        cls, root: Path, experiment: Experiment, facts: dict[str, Any], split: dict[str, Any], path: Path | None = None
    ) -> "Run":
        """Write down what is known before training starts, in a new folder under `root`, or in `path`."""
        path = path or new_folder(root, experiment.name)
        files.write_atomic(path / "split.json", json.dumps(split, indent=2) + "\n")
        files.write_atomic(path / "run.json", json.dumps({**facts, **_versions()}, indent=2) + "\n")
        run = cls(path)
        run.write_experiment(experiment)  # last: it makes the folder a run
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

    def write_experiment(self, experiment: Experiment) -> None:
        """Write experiment.json, if it would change."""
        path, text = self.path / "experiment.json", experiment.to_json()
        if not path.is_file() or path.read_text() != text:
            files.write_atomic(path, text)

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

    @property
    def begun(self) -> bool:
        """Whether there are states to go on from, so that nothing that a network begins with is needed."""
        return any((self.path / "checkpoints").glob("state-*.npz"))

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
        if path.with_name(HASHES).exists():
            written, found = self._hashes().get(which, [None]), files.sha256(path)
            if found not in written:
                raise RunError(f"{path}: must be the file that was trained, SHA-256 {written[0]}. Received: {found}")
        return path

    @contextmanager
    def replacing_checkpoint(self, which: str) -> Iterator[Path]:
        """Give a path to write weights to, which then take the place of `which`, with their hash in hashes.json.

        Whatever moment the process is killed at, the weights that lie there are among those that the hashes accept.
        """
        with files.replacing(self.checkpoint(which)) as beside:
            yield beside
            new = [files.sha256(beside)]
            old = [files.sha256(self.checkpoint(which))] if self.checkpoint(which).is_file() else []
            self._write_hashes({**self._hashes(), which: new + old})
        self._write_hashes({**self._hashes(), which: new})

    def _hashes(self) -> dict[str, list[str]]:
        """Return which SHA-256s each checkpoint may have: best or last → one, or two while it is being replaced."""
        path = self.path / "checkpoints" / HASHES
        if not path.is_file():
            return {}
        table = self.read_json(str(path.relative_to(self.path)))
        return {which: [value] if isinstance(value, str) else list(value) for which, value in table.items()}

    def _write_hashes(self, hashes: dict[str, list[str]]) -> None:
        table = {which: values[0] if len(values) == 1 else values for which, values in sorted(hashes.items())}
        files.write_atomic(self.path / "checkpoints" / HASHES, json.dumps(table, indent=2) + "\n")


def new_folder(root: Path, name: str) -> Path:
    """Make a folder `<name>-<time>` that nobody else has."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    root.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1000):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
            break
        except FileExistsError:  # another run of the same second
            continue
    return path


def evaluation_name(checkpoint: str, other_data: Path | None) -> str:
    """Return the name of an evaluation's folder: evaluation, with -last and the name of other data where they apply."""
    parts = ["last"] * (checkpoint == "last") + ([other_data.resolve().name] if other_data else [])
    return "-".join(["evaluation", *parts])


def _versions() -> dict[str, Any]:
    """Return what a run needs to be repeated: machine, Python and package versions."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("tf_liver", *PACKAGES)},
    }
