"""Several runs as one model: which runs are meant, whether they go together, and on whom they may be scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_liver.data.cases import Case, find_cases, held_out_of
from tf_liver.experiment import MIRRORING
from tf_liver.folds import opened_as_runs
from tf_liver.records import RunSplit
from tf_liver.runs import Run

RUNS_MEANT = (
    "run folder, or several (or a cross-validation's folder) whose probabilities are averaged; "
    "without it the latest one"
)


def open_runs(folders: Sequence[Path], checkpoint: str) -> list[Run]:
    """Return the runs in some folders, each a run or a cross-validation, that may answer together.

    Raises:
        RunError: no such run, one that is not finished, or without its checkpoint.
        ValueError: they look for other things, mend label maps otherwise, or one is named twice.
    """
    runs = [run for folder in folders for run in opened_as_runs(folder)]
    for run in runs:
        run.require_checkpoint(checkpoint)
    experiments = [run.experiment for run in runs]
    for run, experiment in zip(runs, experiments, strict=True):
        for field in ("task", "postprocessing"):
            mine, first = getattr(experiment, field), getattr(experiments[0], field)
            if mine != first:
                raise ValueError(f"{run.path}: {field} must be that of {runs[0].path}, {first}. Received: {mine}")
    paths = [run.path.resolve() for run in runs]
    if twice := [str(path) for path in paths if paths.count(path) > 1]:
        raise ValueError(f"{twice[0]}: a run may be named once. Received: {len(twice)} times")
    return runs


def check_mirrored(runs: Sequence[Run]) -> None:
    """Refuse mirror images for a network that never saw any, with a ValueError."""
    for run in runs:
        augmentation = run.experiment.augmentation
        if augmentation not in MIRRORING:
            raise ValueError(
                f"{run.path}: --tta averages over mirror images, on which the run must have been trained "
                f"(augmentation {' or '.join(MIRRORING)}). Received: {augmentation}"
            )


def load_together(runs: Sequence[Run], checkpoint: str, mirrored: bool = False) -> tuple[Any, str]:
    """Return the runs as one predictor, the mean of their probabilities, and the types that they compute in.

    mirrored: average over mirror images too.
    """
    from tf_liver.model.predictor import Averaged, Mirrored, load_predictor

    loaded = [load_predictor(run.experiment, str(run.require_checkpoint(checkpoint))) for run in runs]
    predictors = [Mirrored(predictor) if mirrored else predictor for predictor, _ in loaded]
    kinds = "/".join(sorted({kind for _, kind in loaded}))
    return Averaged(predictors) if len(predictors) > 1 else predictors[0], kinds


def held_out_cases(runs: Sequence[Run], other_data: Path | None) -> tuple[list[Case], Path]:
    """Return the cases that runs may be scored on together, and the data that they are of.

    Without other data those are the cases that the runs hold out, which none of them may have been trained on.

    Raises:
        ValueError: one of them was; or the runs are of several data folders.
        DataError: as `held_out_of`.
    """
    splits = [run.split for run in runs]
    split: dict[str, Any] = {
        "train": sorted({case_id for one in splits for case_id in one["train"]}),
        "held_out": sorted({case_id for one in splits for case_id in one["held_out"]}),
        "patients": {case_id: who for one in splits for case_id, who in one.get("patients", {}).items()},
    }
    if other_data is None and len(runs) > 1:
        _refuse_trained(runs, splits, split["patients"])
    folders = {run.data.resolve(): None for run in runs}
    if other_data is None and len(folders) > 1:
        raise ValueError(f"--data: runs of one data folder, or --data. Received: {', '.join(map(str, folders))}")
    data = other_data or runs[0].require_data()
    return held_out_of(find_cases(data), split, other_data=other_data is not None), data


def _refuse_trained(runs: Sequence[Run], splits: Sequence[RunSplit], patients: dict[str, str]) -> None:
    for run, split in zip(runs, splits, strict=True):
        who = {patients.get(case_id, case_id) for case_id in split["train"]}
        for other, held_out in zip(runs, (one["held_out"] for one in splits), strict=True):
            if seen := [case_id for case_id in held_out if patients.get(case_id, case_id) in who]:
                raise ValueError(
                    f"{other.path}: holds out {', '.join(seen)}, on which {run.path} was trained; "
                    "give --data of patients that none of them knows, or runs of one fold"
                )
