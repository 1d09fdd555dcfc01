"""Cross-validate an experiment: train and score every fold, in one folder that can be gone on with."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional  # noqa: UP035  argparse-dataclass 2.0.0 reads List

from tf_liver import files
from tf_liver.command import (
    DONE,
    FAILED,
    REFUSED,
    check_option,
    command,
    command_line,
    debug_option,
    option,
    parse_with_experiment,
)
from tf_liver.data.build import PREPARED
from tf_liver.data.cases import DEFAULT_DATA, FOLD_SEED, find_cases, split_folds
from tf_liver.experiment import EXPERIMENT_MEANT
from tf_liver.fold_work import Work
from tf_liver.folds import FILE, CrossValidation, locked
from tf_liver.plan import choose_experiment
from tf_liver.runs import RUNS, RunError, evaluation_name, new_folder


@dataclass
class CrossvalOptions:
    """On what, how often, and how it is judged."""

    experiment: Optional[str] = option(None, EXPERIMENT_MEANT)
    data: Optional[Path] = option(
        None, f"Task03_Liver folder, whose patients are dealt into --folds (default: {DEFAULT_DATA})", type=Path
    )
    seeds: Optional[List[int]] = option(  # noqa: UP006
        None, "seeds of weights, order and augmentation: each trains every fold (default: 0)", nargs="+", type=int
    )
    checkpoint: str = option(
        "last", "last is the honest one: best was chosen by the slices that are scored", choices=["last", "best"]
    )
    also: Optional[List[Path]] = option(  # noqa: UP006
        None, "other Task03_Liver folders that each run, and all together, are scored on", nargs="+", type=Path
    )
    workers: int = option(os.cpu_count() or 1, "processes that prepare and load slices, and that score cases")
    store: bool = option(True, "stream from the scans instead of preparing their slices once", args=["--no-store"])
    prepared: Path = option(PREPARED, "folder under which prepared slices are kept")
    offline: bool = option(False, "never ask the network, not for imagenet's encoder_weights either")
    runs: Path = option(RUNS, "where the folder of the cross-validation is made")
    run: Optional[Path] = option(
        None, "that folder itself: made if there is none, gone on with if there is one", type=Path
    )
    debug: bool = debug_option()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from an experiment to the scores of every case, held out once for every seed."""
    options, changes = parse_with_experiment(CrossvalOptions, argv, "crossval", __doc__)
    check(options)
    path = folder_of(options, changes)
    with locked(path) as lock:
        whole = begin_or_go_on(path, options, changes, command_line("crossval", argv))
        prepared = options.prepared if options.store else None
        work = Work(whole, options.checkpoint, options.also or (), options.workers, prepared, options.offline, lock)
        print(f"cross-validation of {whole.experiment.name} in {path}: {len(whole.members)} runs", flush=True)
        try:
            work.train_and_score()
            work.score_together()
        except KeyboardInterrupt:
            where = "" if options.run else f" --run {shlex.quote(str(path))}"
            print(f"go on with: {command_line('crossval', argv)}{where}", file=sys.stderr)
            raise
        return report(work, options.workers)


def check(options: CrossvalOptions) -> None:
    """Refuse numbers and folders that make no sense, before anything is made."""
    check_option("workers", options.workers, 1)
    for seed in options.seeds or ():
        check_option("seeds", seed, 0, 2**32 - 1)
    names = [folder.resolve().name for folder in options.also or () if find_cases(folder)]
    if len(set(names)) < len(names):
        raise ValueError(f"--also: folders must have names of their own. Received: {', '.join(names)}")


def folder_of(options: CrossvalOptions, changes: dict[str, Any]) -> Path:
    """Return the folder to work in, a new one if none was named.

    Raises:
        RunError: it holds something else.
    """
    if options.run is None:
        experiment = choose_experiment(None, options.experiment, changes, "")
        split_folds(find_cases(options.data or DEFAULT_DATA), experiment.folds, FOLD_SEED)
        return new_folder(options.runs, f"{experiment.name}-crossval")
    there = {path.name for path in options.run.iterdir()} if options.run.is_dir() else set()
    if FILE not in there and (others := sorted(there - {".lock"})):
        raise RunError(f"{options.run}: a new cross-validation needs an empty folder. Received: one with {others[0]}")
    return options.run


def begin_or_go_on(path: Path, options: CrossvalOptions, changes: dict[str, Any], line: str) -> CrossValidation:
    """Return what lies in the folder, with more epochs and seeds if asked for, or a new cross-validation.

    Raises:
        RunError: the experiment, or who is held out in which fold, is not as it was.
    """
    old = CrossValidation.open(path) if (path / FILE).is_file() else None
    experiment = choose_experiment(old.experiment if old else None, options.experiment, changes, str(path))
    data = options.data or (old.data if old else DEFAULT_DATA)
    splits = split_folds(find_cases(data), experiment.folds, FOLD_SEED)
    folds = {case.case_id: number for number, split in enumerate(splits) for case in split.held_out}
    seeds = list(dict.fromkeys(options.seeds or (old.table["seeds"] if old else [0])))
    if old is None:
        return CrossValidation.create(
            path, experiment, command=line, data=str(data.resolve()), folds=folds, seeds=seeds
        )
    if other := sorted({*folds.items()} ^ {*old.table["folds"].items()}):
        raise RunError(f"{path}: who is held out when must be as it was. Received: a difference in {other[0][0]}")
    if left_out := set(old.table["seeds"]) - set(seeds):
        raise RunError(
            f"{path}: its seeds stay, others may be added. Received: none of {', '.join(map(str, left_out))}"
        )
    old.table |= {"experiment": dataclasses.asdict(experiment), "data": str(data.resolve()), "seeds": seeds}
    old.save()
    return old


def report(work: Work, workers: int) -> int:
    """Write and print what came out; return the exit code."""
    from tf_liver.volume import crossvalidation as scores
    from tf_liver.volume.tables import metrics_csv, to_json

    whole, cases = work.whole, find_cases(work.whole.data)
    folder = whole.path / evaluation_name(work.checkpoint, None)
    facts = {"run": str(whole.path), "checkpoint": work.checkpoint, "data": str(whole.data)}
    tumours, of_seeds = whole.experiment.task == "tumour", {}
    for seed in whole.table["seeds"]:
        if found := work.label_maps(seed):
            told = {**facts, "seed": seed}
            of_seeds[seed] = scores.score_seed(cases, found, folder / f"seed_{seed}", told, workers, tumours)
    if not of_seeds:
        return REFUSED
    of_runs = {
        (member.seed, member.fold): [row for row in rows if row.case_id in whole.held_out(member.fold)]
        for member in whole.members
        if (rows := of_seeds.get(member.seed))
    }
    minutes = {member: round(whole.minutes(member), 2) for member in whole.members}
    summary = {
        **facts,
        "checkpoint_chosen_by": scores.CHOSEN_BY[work.checkpoint],
        "minutes": {member.name: spent for member, spent in minutes.items()},
        "failed": work.failed,
        **scores.summarise_seeds(of_seeds, {case.case_id: case.patient for case in cases}),
        "also": {data.resolve().name: work.on_others(data) for data in work.others},
    }
    files.write_atomic(folder / "crossval.csv", scores.folds_csv(of_runs))
    files.write_atomic(folder / "metrics.csv", metrics_csv(scores.over_seeds(of_seeds)))
    files.write_atomic(folder / "summary.json", to_json(summary))
    print(scores.table(of_runs, {(member.seed, member.fold): spent for member, spent in minutes.items()}))
    print(scores.in_words(summary))
    print(f"written to {folder}: crossval.csv, metrics.csv, summary.json, and a folder a seed with its report")
    return FAILED if work.failed else DONE


if __name__ == "__main__":
    sys.exit(main())
