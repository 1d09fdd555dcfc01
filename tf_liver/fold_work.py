"""The runs of a cross-validation, one command after the other; what fails is named, and the rest goes on."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tf_liver import files
from tf_liver.command import DONE, FAILED, one_line
from tf_liver.folds import CrossValidation, Member
from tf_liver.processes import run_command
from tf_liver.records import Summary
from tf_liver.runs import Run, RunError, evaluation_name


@dataclass
class Work:
    """What is done with a cross-validation now.

    others: other data to score on. prepared: None streams from the scans. offline: never ask the network.
    lock: handle of the lock, for the commands.
    failed: run → what failed. scored: folder and evaluation in it, of the weights that are there.
    """

    whole: CrossValidation
    checkpoint: str
    others: Sequence[Path]
    workers: int
    prepared: Path | None
    offline: bool
    lock: int
    failed: dict[str, str] = field(default_factory=dict)
    scored: set[tuple[str, str]] = field(default_factory=set)

    def train_and_score(self) -> None:
        """Bring every run to its end and its scores."""
        total = len(self.whole.members)
        for number, member in enumerate(self.whole.members, start=1):
            held_out = self.whole.held_out(member.fold)
            who = ", ".join(held_out) if len(held_out) < 4 else f"{len(held_out)} cases"
            print(f"run {number} of {total}: {member.name}, {who} held out", flush=True)
            try:
                if not self.whole.is_trained(member):
                    self._train(member)
                for data in (None, *self.others):
                    self._evaluate(member.name, data, self._weights(member))
            except RunError as error:
                self._fail(member.name, error)

    def score_together(self) -> None:
        """Score all runs as one model on the other data."""
        for data in self.others:
            print(f"all runs together on {data}", flush=True)
            try:
                self._evaluate(".", data, " ".join(self._weights(member) for member in self.whole.members))
            except RunError as error:
                self._fail("together", error)

    def _train(self, member: Member) -> None:
        fields = dataclasses.asdict(self.whole.experiment).items()
        shaped = [(name, value if isinstance(value, tuple) else (value,)) for name, value in fields]
        options = ["--run", self.whole.run(member).path, "--data", self.whole.data, "--workers", self.workers]
        options += ["--prepared", self.prepared] if self.prepared else ["--no-store"]
        options += ["--offline"] * self.offline + ["--fold", member.fold, "--seed", member.seed]
        options += [word for name, values in shaped for word in (f"--{name.replace('_', '-')}", *values)]
        with self.whole.training(member):
            require_done(self._run("train", options), f"{member.name}: train")

    def _weights(self, member: Member) -> str:
        return files.sha256(self.whole.run(member).require_checkpoint(self.checkpoint))

    def _evaluate(self, folder: str, data: Path | None, weights: str) -> None:
        """Score a run, or all in ".", on its held-out cases or other data, unless these weights have been there."""
        name, proof = evaluation_name(self.checkpoint, data), f"{weights} {data.resolve() if data else ''}"
        if not self.whole.is_scored(folder, name, proof):
            options = [self.whole.path / folder, "--checkpoint", self.checkpoint, "--workers", self.workers]
            code = self._run("evaluate", [*options, *(["--data", data] if data else [])])
            if code == FAILED:  # some cases are there
                self.scored.add((folder, name))
            require_done(code, f"{'all together' if folder == '.' else folder}: evaluate")
            self.whole.note_scored(folder, name, proof)
        self.scored.add((folder, name))

    def _run(self, name: str, options: Sequence[object]) -> int:
        return run_command([sys.executable, "-m", f"tf_liver.{name}", *map(str, options)], self.lock)

    def _fail(self, name: str, error: Exception) -> None:
        self.failed[name] = one_line(error)
        print(f"error: {self.failed[name]}", file=sys.stderr, flush=True)

    def label_maps(self, seed: int) -> dict[str, Path]:
        """Return case_id → label map of the cases that the runs of a seed hold out, as far as there are any."""
        found, name = {}, evaluation_name(self.checkpoint, None)
        for member in self.whole.members:
            if member.seed == seed and (member.name, name) in self.scored:
                run = self.whole.run(member)
                for case_id in run.read_json(f"{name}/summary.json", Summary, ("patients",))["patients"]:
                    found[case_id] = run.path / name / "predictions" / f"{case_id}.nii.gz"
        return found

    def on_others(self, data: Path) -> dict[str, dict[str, Any]]:
        """Return what each run, and all together, scored on other data: run → region → score → mean."""
        found, name = {}, evaluation_name(self.checkpoint, data)
        for folder in (*(member.name for member in self.whole.members), "."):
            if (folder, name) in self.scored:
                summary = Run(self.whole.path / folder).read_json(f"{name}/summary.json", Summary, ("regions",))
                regions = summary["regions"].items()
                means = {region: {s: v.get("mean") for s, v in scores.items()} for region, scores in regions}
                found["together" if folder == "." else folder] = means
        return found


def require_done(code: int, what: str) -> None:
    """Raise RunError unless a command ended well."""
    if code != DONE:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise RunError(f"{what} {how}; its own message is above")
