"""A run folder: what lies in it, how it is written, and which run is the latest."""

import json
import platform
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tf_liver import files
from tf_liver.experiment import Experiment, ExperimentError, from_table, replace

RUNS = Path("runs")
HASHES = "hashes.json"
FORMAT = 1  # of run.json; without one it is of a time before there was a number, and read as 1
# Field → type, of the files that a run folder holds.
FACTS = {
    **{"format": int, "data": str, "prepared": str, "fold": int, "seed": int, "store": bool, "deterministic": bool},
    **{"policy": str, "device": str, "started": str, "python": str, "command": str, "versions": dict[str, str]},
}
SPLIT = {"train": list[str], "held_out": list[str], "patients": dict[str, str]}
PACKAGES = ("tensorflow", "tf-keras", "segmentation-models", "nibabel", "numpy", "albumentations")
# Of an evaluation's summary.json; a region's score → its figures.
SUMMARY = {
    **{"cases": int, "liver": str, "run": str, "data": str, "checkpoint": str, "predictions": str, "interval": str},
    **{"patients": dict[str, str], "failed": dict[str, str], "regions": dict[str, dict[str, dict[str, Any]]]},
}


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
        files.write_atomic(path / "run.json", json.dumps({"format": FORMAT, **facts, **_versions()}, indent=2) + "\n")
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
        if not path.is_file() or path.read_bytes() != text.encode():
            files.write_atomic(path, text)

    @property
    def experiment(self) -> Experiment:
        """The experiment as it was run, overrides included."""
        return from_table(self.read_json("experiment.json"), str(self.path / "experiment.json"))

    @property
    def trained_experiment(self) -> Experiment:
        """The experiment with the precision it was trained in, whatever `auto` would pick on this machine."""
        policy = self.facts.get("policy", self.experiment.precision)
        try:
            return replace(self.experiment, precision=policy)
        except ExperimentError as error:
            raise RunError(f"{self.path / 'run.json'}: policy: {error}") from error

    @property
    def begun(self) -> bool:
        """Whether there are states to go on from, so that nothing that a network begins with is needed."""
        return any((self.path / "checkpoints").glob("state-*.npz"))

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json holds: `FACTS`, as far as a run of its time had them."""
        table = self.read_json("run.json", FACTS)
        if table.get("format", FORMAT) > FORMAT:
            path = self.path / "run.json"
            raise RunError(f"{path}: format must be {FORMAT}. Received: {table['format']}, of a newer tf_liver")
        return table

    @property
    def data(self) -> Path:
        """The folder of scans that the run was trained on."""
        facts = self.facts
        if "data" not in facts:
            raise RunError(f"{self.path / 'run.json'}: must hold data. Received: an object without it")
        return Path(facts["data"])

    @property
    def split(self) -> dict[str, Any]:
        """The case_ids of both sides, and case_id → patient; older runs name no patients."""
        return self.read_json("split.json", SPLIT, ("train", "held_out"))

    def read_json(
        self, name: str, fields: Mapping[str, Any] | None = None, required: Collection[str] = ()
    ) -> dict[str, Any]:
        """Return one of the run's JSON files, as `files.read_json`.

        Raises:
            RunError: the file is missing or damaged; the message names it and the field.
        """
        try:
            return files.read_json(self.path / name, fields, required)
        except (files.JsonError, FileNotFoundError, IsADirectoryError) as error:
            raise RunError(str(error)) from error

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
        kinds = {which: str | list[str] for which in ("best", "last")}
        table = self.read_json(str(path.relative_to(self.path)), kinds)
        hashes = {which: [value] if isinstance(value, str) else value for which, value in table.items()}
        if empty := [which for which, values in hashes.items() if not values]:
            raise RunError(f"{path}: {empty[0]} must have a SHA-256. Received: none")
        return hashes

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
