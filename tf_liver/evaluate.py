"""Score a run on its held-out cases, runs together on others, or label maps of another tool: every slice."""

import os
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
    debug_option,
    one_line,
    option,
    parse,
    quiet_tensorflow,
)
from tf_liver.data import LIVERS
from tf_liver.data.cases import Case, find_cases
from tf_liver.ensemble import RUNS_MEANT, held_out_cases, load_together, open_runs
from tf_liver.runs import RUNS, Run, evaluation_name


@dataclass
class EvaluateOptions:
    """What to score, or to compare."""

    run: Optional[List[Path]] = option(  # noqa: UP006
        None, RUNS_MEANT, args=["run"], nargs="*", type=Path
    )
    data: Optional[Path] = option(
        None, "another Task03_Liver folder: all its cases but the runs' training cases are scored"
    )
    checkpoint: str = option(
        "best", "best was chosen by the Dice of the held-out slices, last was not", choices=["best", "last"]
    )
    against: Optional[Path] = option(
        None,
        "score the label maps in this folder instead, of all cases of --data or of a run's held-out ones: "
        "<case_id>.nii.gz as nnU-Net writes them, or <case_id>/liver.nii.gz as TotalSegmentator does",
    )
    compare: Optional[List[Path]] = option(  # noqa: UP006
        None,
        "compare two evaluations of the same cases (or the runs they are in): paired differences, their intervals, p",
        nargs=2,
        type=Path,
    )
    liver: str = option(
        "whole", "what is liver: whole = labels 1 and 2, parenchyma = label 1 alone", choices=list(LIVERS)
    )
    output: Optional[Path] = option(
        None,
        "folder of the results, which several runs need; without it <run>/evaluation, -last and -<name of the data> "
        "added, or <folder of --against>/evaluation, or the first evaluation that is compared",
    )
    workers: int = option(min(8, os.cpu_count() or 1), "cases scored at once; the largest take 1 GB each")
    runs: Path = option(RUNS, "where to look for the latest run")
    debug: bool = debug_option()


@dataclass(frozen=True)
class Task:
    """What is to be scored: the cases, whose label maps, where the results go, and what summary.json says of it.

    runs: none if the label maps are there already, in `predictions`.
    """

    cases: Sequence[Case]
    predictions: Path
    output: Path
    facts: dict[str, Any]
    runs: Sequence[Run] = ()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Walk from a run folder, or a folder of label maps, to scores."""
    options = parse(EvaluateOptions, argv, "evaluate", __doc__)
    check_option("workers", options.workers, 1)
    if options.compare:
        return compare_evaluations(options)
    task = task_of_folder(options) if options.against else task_of_runs(options)
    unsegmented = segment(task.runs, options.checkpoint, task.cases, task.predictions) if task.runs else {}

    from tf_liver.volume.report import write_report
    from tf_liver.volume.results import write_results
    from tf_liver.volume.scoring import score_label_maps
    from tf_liver.volume.summary import summarise

    cases = [case for case in task.cases if case.case_id not in unsegmented]
    keep = None if task.runs else task.output / "predictions"
    tumours = any(run.experiment.task == "tumour" for run in task.runs)
    results = score_label_maps(cases, task.predictions, options.liver, options.workers, keep, tumours)
    for result in results:
        if result.error:
            print(f"error: {result.error}", file=sys.stderr)
    summary = {**task.facts, "liver": options.liver, **summarise(results, unsegmented)}
    if summary["cases"]:
        print(write_results(task.output, results, summary))
        print(f"look at {write_report(task.output, task.cases, task.runs[0].path if len(task.runs) == 1 else None)}")
    print(f"{summary['cases']} of {len(task.cases)} cases scored")
    return DONE if not summary["failed"] else FAILED if summary["cases"] else REFUSED


def task_of_runs(options: EvaluateOptions) -> Task:
    """Return the task of segmenting and scoring the held-out cases of a run, or of several, or those of other data."""
    folders = options.run or [Run.latest(options.runs).path]
    if len(folders) > 1 and not options.output:
        raise ValueError(f"--output: several runs need one. Received: {len(folders)} runs and none")
    runs = open_runs(folders, options.checkpoint)
    cases, data = held_out_cases(runs, options.data)
    output = options.output or folders[0] / evaluation_name(options.checkpoint, options.data)
    name = ", ".join(map(str, folders))
    together = f" ({len(runs)} runs together)" if len(runs) > 1 else ""
    print(f"evaluating {name}{together}, {options.checkpoint} checkpoint, on {len(cases)} cases of {data}", flush=True)
    facts = {"run": name, "checkpoint": options.checkpoint, "data": str(data)}
    if len(runs) > 1:
        facts["members"] = ", ".join(run.path.name for run in runs)
    return Task(cases, output / "predictions", output, facts, runs)


def task_of_folder(options: EvaluateOptions) -> Task:
    """Return the task of scoring label maps that are there, of all cases of --data or of a run's held-out ones.

    Raises:
        ValueError: no such folder, or neither --data nor a run.
    """
    assert options.against is not None
    if not options.against.is_dir():
        raise ValueError(f"--against: there is no such folder. Received: {options.against}")
    if options.run:
        if len(options.run) > 1:
            raise ValueError(f"--against: one run, whose held-out cases are scored. Received: {len(options.run)}")
        cases, data = held_out_cases([Run.open(options.run[0])], options.data)
    elif options.data:
        cases, data = find_cases(options.data), options.data
    else:
        raise ValueError("--against: needs --data, whose cases are scored, or a run, whose held-out cases are")
    print(f"scoring the label maps in {options.against} on {len(cases)} cases of {data}", flush=True)
    output = options.output or options.against / evaluation_name("best", None)
    return Task(cases, options.against, output, {"predictions": str(options.against), "data": str(data)})


def segment(runs: Sequence[Run], checkpoint: str, cases: Sequence[Case], folder: Path) -> dict[str, str]:
    """Write the label map of every case into a folder; return case_id → what was wrong, for those that failed."""
    quiet_tensorflow()
    from tf_liver.volume.inference import segment_files

    def load() -> Any:
        predictor, kinds = load_together(runs, checkpoint)
        print(f"segmenting in {kinds}", flush=True)
        return predictor

    outputs = [folder / f"{case.case_id}.nii.gz" for case in cases]
    scans, first = [case.image for case in cases], runs[0].experiment
    found = segment_files(load, scans, outputs, first.postprocessing, tumours=first.task == "tumour")
    wrong = {}
    for case, one in zip(cases, found, strict=True):
        if one.error:
            wrong[case.case_id] = one_line(one.error)
            print(f"error: {wrong[case.case_id]}", file=sys.stderr)
    return wrong


def compare_evaluations(options: EvaluateOptions) -> int:
    """Print how two evaluations differ, and write compare.json."""
    from tf_liver.volume.compare import compare, table
    from tf_liver.volume.tables import to_json

    assert options.compare is not None
    name = evaluation_name(options.checkpoint, options.data)
    first, second = (path if (path / "metrics.csv").is_file() else path / name for path in options.compare)
    comparison = compare(first, second)
    output = (options.output or first) / "compare.json"
    files.write_atomic(output, to_json(comparison))
    print(f"first {first}, second {second}: {comparison['cases']} cases")
    print(table(comparison))
    print(f"written to {output}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
