"""A cross-validation folder: a run for every fold and seed, and how far each has come."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tf_liver import files
from tf_liver.experiment import Experiment, from_table
from tf_liver.records import CrossvalTable, Entry
from tf_liver.runs import MAX_SEED, Run, RunError, check_format

FILE = "crossval.json"
LOCK_S = 60.0
FORMAT = 1  # of crossval.json


@dataclass(frozen=True)
class Member:
    """One of the runs of a cross-validation."""

    fold: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"fold_{self.fold}-seed_{self.seed}"


@dataclass
class CrossValidation:
    """`<runs>/<experiment>-crossval-<time>/`: one experiment, trained on every fold, with one or more seeds.

    crossval.json     experiment, data, fold of each case, seeds; of each run when it trained and what it was scored on
    fold_0-seed_0/    a run folder each, as train writes it
    evaluation-last/  crossval.csv, metrics.csv, summary.json; seed_0/ with the label maps and a report
    """

    path: Path
    table: CrossvalTable

    @classmethod
    def create(
        cls, path: Path, experiment: Experiment, data: str, folds: dict[str, int], seeds: list[int], command: str = ""
    ) -> "CrossValidation":
        """Write down what is to be done; folds: case_id → the fold that holds it out."""
        table: CrossvalTable = {
            "format": FORMAT,
            "experiment": asdict(experiment),
            "command": command,
            "data": data,
            "folds": folds,
            "seeds": seeds,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "runs": {},
        }
        made = cls(path, table)
        made.save()
        return made

    @classmethod
    def open(cls, path: Path) -> "CrossValidation":
        """Return the cross-validation in a folder.

        Raises:
            RunError: there is none.
        """
        if not (path / FILE).is_file():
            raise RunError(f"{path}: not a cross-validation: {FILE} is missing")
        table = Run(path).read_json(FILE, CrossvalTable)
        check_format(path / FILE, table.get("format", FORMAT), FORMAT)
        for name, numbers in (("seeds", table["seeds"]), ("folds", [*table["folds"].values()])):
            if not numbers or not 0 <= min(numbers) <= max(numbers) <= MAX_SEED:
                rule = f"{name} must be one number or more, in [0, {MAX_SEED}]"
                raise RunError(f"{path / FILE}: {rule}. Received: {str(numbers)[:80]}")
        for name, entry in table["runs"].items():
            if any(len(session) != 2 or session[0] is None for session in entry.get("sessions", [])):
                raise RunError(f"{path / FILE}: runs.{name}.sessions must be pairs of seconds")
        return cls(path, table)

    def save(self) -> None:
        """Write crossval.json."""
        files.write_atomic(self.path / FILE, json.dumps(self.table, indent=2) + "\n")

    @property
    def experiment(self) -> Experiment:
        """What all runs train."""
        return from_table(self.table["experiment"], str(self.path / FILE))

    @property
    def data(self) -> Path:
        """The folder of scans."""
        return Path(self.table["data"])

    @property
    def members(self) -> list[Member]:
        """All runs that there are to be, seed by seed."""
        folds = sorted(set(self.table["folds"].values()))
        return [Member(fold, seed) for seed in self.table["seeds"] for fold in folds]

    def run(self, member: Member) -> Run:
        """Return a member's run, which may not have begun."""
        return Run(self.path / member.name)

    def held_out(self, fold: int) -> list[str]:
        """Return the case_ids that a fold holds out."""
        return [case_id for case_id, number in self.table["folds"].items() if number == fold]

    def is_trained(self, member: Member) -> bool:
        """Return whether a member has been trained to the end, for as many epochs as the experiment now has."""
        there = (self.path / member.name / "experiment.json").is_file()
        return there and self._entry(member.name).get("epochs") == self.experiment.epochs

    def is_scored(self, folder: str, evaluation: str, proof: str) -> bool:
        """Return whether an evaluation in a run's folder, or in "." for all together, is the one of `proof`."""
        there = (self.path / folder / evaluation / "summary.json").is_file()
        return there and self._entry(folder).get("scored", {}).get(evaluation) == proof

    def note_scored(self, folder: str, evaluation: str, proof: str) -> None:
        """Remember which weights, and which data, an evaluation is of."""
        self._entry(folder).setdefault("scored", {})[evaluation] = proof
        self.save()

    @contextlib.contextmanager
    def training(self, member: Member) -> Iterator[None]:
        """Note when the training of a member begins and ends, and that it is done if no error comes out."""
        sessions = self._entry(member.name).setdefault("sessions", [])
        if sessions and sessions[-1][1] is None:  # killed: what it did after its last file is lost
            written = (path.stat().st_mtime for path in self.run(member).path.glob("checkpoints/*"))
            sessions[-1][1] = max(sessions[-1][0] or 0, *written, 0)
        sessions.append([time.time(), None])
        self.save()
        try:
            yield
            self._entry(member.name)["epochs"] = self.experiment.epochs
        finally:
            sessions[-1][1] = time.time()
            self.save()

    def minutes(self, member: Member) -> float:
        """Return how long a member was trained, its start included; of a session that was killed, to its last file."""
        sessions = self._entry(member.name).get("sessions", [])
        return sum(end - begin for begin, end in sessions if begin is not None and end) / 60

    def _entry(self, folder: str) -> Entry:
        return self.table["runs"].setdefault(folder, {})


def opened_as_runs(folder: Path) -> list[Run]:
    """Return the runs that a folder means: itself, or all of a cross-validation, which must have been trained.

    Raises:
        RunError: neither a run folder nor a cross-validation, or one that is not finished.
    """
    if not (folder / FILE).is_file():
        return [Run.open(folder)]
    whole = CrossValidation.open(folder)
    if missing := [member.name for member in whole.members if not whole.is_trained(member)]:
        how = f"python -m tf_liver.crossval --run {folder} goes on"
        raise RunError(f"{folder}: every run must have been trained to the end; {how}. Missing: {', '.join(missing)}")
    return [Run.open(whole.run(member).path) for member in whole.members]


@contextlib.contextmanager
def locked(path: Path, wait_s: float = LOCK_S) -> Iterator[int]:
    """Hold a cross-validation for oneself; give the handle that holds it, which children may inherit.

    A child of one that was killed holds it until its state is saved: that is waited for.

    Raises:
        RunError: another process still holds it after `wait_s`.
    """
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise RunError(f"{path}: another process works on this cross-validation") from error
                time.sleep(0.1)
        yield handle
    finally:
        os.close(handle)
