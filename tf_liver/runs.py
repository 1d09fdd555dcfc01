"""A run folder: what lies in it, how it is written, and which run is the latest."""

import json
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from tf_liver import files
from tf_liver.experiment import Experiment, ExperimentError, from_table, replace
from tf_liver.records import RunFacts, RunSplit

T = TypeVar("T")

RUNS = Path("runs")
HASHES = "hashes.json"
MAX_SEED = 2**32 - 1  # NumPy's
FORMAT = 1  # of run.json; without one it is of a time before there was a number, and read as 1
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
        return from_table(self.read_json("experiment.json", dict[str, Any]), str(self.path / "experiment.json"))

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
    def facts(self) -> RunFacts:
        """What run.json holds."""
        table, path = self.read_json("run.json", RunFacts), self.path / "run.json"
        check_format(path, table.get("format", FORMAT), FORMAT)
        if not 0 <= table.get("seed", 0) <= MAX_SEED or table.get("fold", 0) < 0:
            raise RunError(
                f"{path}: seed must lie in [0, {MAX_SEED}], and fold at 0 or above. "
                f"Received: {table.get('seed')} and {table.get('fold')}"
            )
        return table

    @property
    def data(self) -> Path:
        """The folder of scans that the run was trained on."""
        return Path(self.facts["data"])

    def require_data(self) -> Path:
        """Return the folder of scans, or raise RunError where it is there no more."""
        if not self.data.is_dir():
            rule = "data: there is no such data folder, --data names another"
            raise RunError(f"{self.path / 'run.json'}: {rule}. Received: {self.data}")
        return self.data

    @property
    def split(self) -> RunSplit:
        """Who trained and who is held out."""
        split = self.read_json("split.json", RunSplit)
        if not split["held_out"]:
            raise RunError(f"{self.path / 'split.json'}: held_out must name a case. Received: none")
        if both := sorted({*split["train"]} & {*split["held_out"]}):
            raise RunError(f"{self.path / 'split.json'}: train and held_out must share no case. Received: {both[0]}")
        return split

    def read_json(
        self,
        name: str,
        kind: type[T] = dict[str, Any],  # type: ignore[assignment]
        required: Collection[str] = (),
    ) -> T:
        """Return one of the run's JSON files, as `files.read_json`.

        Raises:
            RunError: the file is missing or damaged; the message names it and the field.
        """
        try:
            return files.read_json(self.path / name, kind, required)
        except (files.JsonError, FileNotFoundError) as error:
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
                rule = f"must be the file that was trained, SHA-256 {written[0]}"
                raise RunError(f"{path}: {rule}. Received: {found}, which {HASHES} does not name")
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
        table = self.read_json(str(path.relative_to(self.path)), dict[str, str | list[str]])
        hashes = {which: [value] if isinstance(value, str) else value for which, value in table.items()}
        if empty := [which for which, values in hashes.items() if not values]:
            raise RunError(f"{path}: {empty[0]} must have a SHA-256. Received: none")
        return hashes

    def _write_hashes(self, hashes: dict[str, list[str]]) -> None:
        table = {which: values[0] if len(values) == 1 else values for which, values in sorted(hashes.items())}
        files.write_atomic(self.path / "checkpoints" / HASHES, json.dumps(table, indent=2) + "\n")


def check_format(path: Path, found: int, known: int) -> None:
    """Refuse a file of another format than 1 to the one that is known."""
    if not 1 <= found <= known:
        newer = ", of a newer tf_liver" * (found > known)
        raise RunError(f"{path}: format must be {known}. Received: {found}{newer}")


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
