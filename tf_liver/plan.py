"""What is to be trained: a new experiment, or a run that stopped; and what must not have changed since it began."""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_liver.data.build import PREPARED
from tf_liver.data.cases import DEFAULT_DATA, Split, choose_split, find_cases
from tf_liver.experiment import Experiment, load, replace
from tf_liver.runs import Run, RunError

DEFAULTS = {"data": DEFAULT_DATA, "prepared": PREPARED, "fold": 0, "seed": 0, "store": True, "deterministic": False}
MAY_MOVE = ("data", "prepared")


@dataclass(frozen=True)
class Plan:
    """What to train on what.

    run: the run to go on with; None for a new one.
    facts: data, prepared, fold, seed, store and deterministic, for run.json.
    """

    run: Run | None
    experiment: Experiment
    facts: dict[str, Any]
    split: Split

    @property
    def data(self) -> Path:
        """The folder of scans."""
        return Path(self.facts["data"])

    @property
    def prepared(self) -> Path | None:
        """The folder under which slices are prepared; None streams from the scans."""
        return Path(self.facts["prepared"]) if self.facts["store"] else None

    @property
    def precision(self) -> str:
        """The run's own precision, whatever `auto` would pick on this machine; the experiment's for a new one."""
        return self.run.trained_experiment.precision if self.run else self.experiment.precision

    def identity(self, policy: str) -> dict[str, Any]:
        """Return what a state must have been trained with to be gone on with: all but epochs and machine."""
        experiment = {**dataclasses.asdict(self.experiment), "precision": policy, "epochs": None}
        same = {name: self.facts[name] for name in ("fold", "seed", "store")}
        return json.loads(json.dumps({"experiment": experiment, **same, **self.split.case_ids}))


def make_plan(run: Run | None, name: str | None, changes: dict[str, Any], **given: Any) -> Plan:
    """Return the plan for the experiment `name` with `changes`, or for going on with a run.

    given: data, prepared, fold, seed, store and deterministic; None is the run's, or the default.

    Raises:
        ExperimentError: a field is unknown or out of range.
        RunError: something differs from the run to go on with, and what; only epochs may be raised, and folders move.
    """
    experiment = choose_experiment(run.experiment if run else None, name, changes, str(run.path) if run else "")
    facts = _facts(run, given)
    split = choose_split(find_cases(Path(facts["data"])), experiment.folds, facts["fold"])
    if run:
        old = run.split
        for part in ("train", "held_out"):
            if other := sorted({*old[part]} ^ {*split.case_ids[part]}):
                where = f"{run.path / 'split.json'}: {part} must name the same cases"
                raise RunError(f"{where}. Received: a difference in {other[0]!r}")
    return Plan(run, experiment, facts | {name: str(Path(facts[name]).resolve()) for name in MAY_MOVE}, split)


def choose_experiment(old: Experiment | None, name: str | None, changes: dict[str, Any], where: str) -> Experiment:
    """Return the experiment `name` with `changes`, or with more epochs the `old` one of what is gone on with.

    where: names the old one in errors.

    Raises:
        ExperimentError: a field is unknown or out of range.
        RunError: something but a higher number of epochs differs from the old one.
    """
    if old is None:
        return replace(load(name or "baseline"), **changes)
    new = replace(load(name) if name else old, **changes)
    if new.epochs < old.epochs:
        raise RunError(f"{where}: epochs can only be raised from the run's {old.epochs}. Received: {new.epochs}")
    for field in dataclasses.fields(Experiment):
        was, wanted = getattr(old, field.name), getattr(new, field.name)
        if field.name != "epochs" and was != wanted:
            raise RunError(f"{where}: {field.name} of the run is {was}, and stays so. Received: {wanted}")
    return new


def _facts(run: Run | None, given: dict[str, Any]) -> dict[str, Any]:
    old: dict[str, Any] = dict(run.facts) if run else {}
    if run and given["data"] is None:
        run.require_data()
    facts = {name: old.get(name, DEFAULTS[name]) if value is None else value for name, value in given.items()}
    for name, value in facts.items():
        if run and name not in MAY_MOVE and name in old and value != old[name]:
            raise RunError(f"{run.path}: {name} of the run is {old[name]}, and stays so. Received: {value}")
    return facts


def run_to_go_on(resume: Path | None, run: Path | None) -> Run | None:
    """Return the run of `--resume`, which must be there, or what lies in `--run` already; None for a new one.

    Raises:
        RunError: both were given, there is no such run, or the folder for a new one holds something else.
    """
    if resume and run:
        raise RunError(f"--resume and --run: one of them. Received: {resume} and {run}")
    if resume:
        return Run.open(resume)
    if run and (run / "experiment.json").is_file():
        return Run.open(run)
    if run and run.exists() and (others := sorted(p.name for p in run.iterdir() if p.name not in _BEGUN)):
        raise RunError(f"{run}: a new run needs an empty folder. Received: one with {others[0]}")
    return None


_BEGUN = {"split.json", "run.json"}  # what a run that was killed before its first step may leave


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold a run for oneself: two trainings in one folder would overwrite each other.

    Raises:
        RunError: another process holds it.
    """
    with open(run.path / ".lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{run.path}: another process is training this run") from error
        yield
